// The generated dashboards and rules in the form of a monitoring mixin.
local rules = std.parseYaml(importstr 'alerts/loco.rules.yml');
local has(group, kind) = std.length([rule for rule in group.rules if kind in rule]) > 0;
{
  grafanaDashboards+:: {
    'loco-overview.json': import 'loco-overview.json',
    'loco-scheduling.json': import 'loco-scheduling.json',
    'loco-spend.json': import 'loco-spend.json',
    'loco-agent.json': import 'loco-agent.json',
  },
  prometheusRules+:: { groups+: [group for group in rules.groups if has(group, 'record')] },
  prometheusAlerts+:: { groups+: [group for group in rules.groups if has(group, 'alert')] },
}
