-- Scopes, and tenants as _core/policies/tenants.py: `fair` among tenants, and the policy among the queues of each. A level
-- has one scope, and from the first waiter that names a tenant on one for each tenant. Requests without a tenant are of the
-- tenant with the empty name.
local policies, read_order, prepare_scope, find_tenant, get_scope, pick_scope
do
policies = {load = load, fair = fair, las = las, fifo = fifo}
local MAX_DORMANT = 1000
function read_order(L)
  L = L.line
  if not L.facts then L.facts = L.order ~= '' and cjson.decode(L.order) or {} end
  return L.facts
end
function prepare_scope(L, P)
  local facts = read_order(L)
  P.is_apart = facts.by_run == 1 or L.is_classed
  P.waiters, P.weights = L.waiters, L.weights
  if P.is_apart then
    P.weights, P.waiters = prefix .. 'apart:weights:' .. L.key, prefix .. 'apart:waiters:' .. L.key .. ':'
  end
  P.shares = L.shares ~= '' and cjson.decode(L.shares) or nil
  P.half_life, P.idle_timeout = tonumber(facts.half_life), tonumber(facts.idle_timeout)
  P.is_ready = true
  return P
end
function find_tenant(key)
  local at = string.find(key, '\31', 1, true)
  return at and string.sub(key, 1, at - 1) or ''
end
-- Returns the scope of a queue.
function get_scope(L, key)
  if L.is_tenanted then return tenants.get_scope(L, find_tenant(key)) end
  return L.scope.is_ready and L.scope or prepare_scope(L, L.scope)
end
-- Returns the scope that is served next, and its tenant.
function pick_scope(L)
  if not L.is_tenanted then return get_scope(L, ''), '' end
  local tenant = fair.pick(tenants.get_order(L))
  return get_scope(L, tenant .. '\31'), tenant
end
define_later(tenants, function()
-- Tenants without an account whose policy still has history, as `las` has; the first has been idle longest.
local function dormant_key(L) return prefix .. 'dormant:' .. L.key end
local function forget_tenant(L, tenant)
  call('HDEL', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\31' .. tenant)
  L.scopes[tenant] = nil
end
function tenants.get_order(L)
  if L.among then return L.among end
  local O = make_scope(L, '\30', call('HGET', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\30') or nil)
  O.shares = read_order(L).tenant_shares
  function O.on_removed(tenant)
    if L.policy == 'las' and call('ZCARD', tenants.get_scope(L, tenant).idle) > 0 then
      local last = call('ZRANGE', dormant_key(L), -1, -1, 'WITHSCORES')
      call('ZADD', dormant_key(L), tonumber(last[2] or '0') + 1, tenant)
    else forget_tenant(L, tenant) end
  end
  L.among = O
  return O
end
function tenants.get_scope(L, tenant)
  local P = L.scopes[tenant]
  if P then return P end
  local state = call('HGET', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\31' .. tenant)
  P = prepare_scope(L, make_scope(L, '\31' .. tenant, state or nil))
  L.scopes[tenant] = P
  return P
end
function tenants.wake_tenant(L, tenant)
  if L.policy == 'las' then call('ZREM', dormant_key(L), tenant) end
end
local function remove_dormant(L)
  if L.policy ~= 'las' then return end
  while true do
    local tenant = call('ZRANGE', dormant_key(L), 0, 0)[1]
    if not tenant then return end
    local P = tenants.get_scope(L, tenant)
    las.remove_silent(P)
    if call('ZCARD', P.idle) > 0 and call('ZCARD', dormant_key(L)) <= MAX_DORMANT then return end
    las.clear(P)
    call('ZREM', dormant_key(L), tenant)
    forget_tenant(L, tenant)
  end
end
-- After a change of a queue of the tenant.
function tenants.update(L, tenant)
  local first = call('ZRANGE', tenants.get_scope(L, tenant).ages, 0, 0, 'WITHSCORES')
  if #first == 0 then return fair.update(tenants.get_order(L), tenant, 0, nil) end
  local head = {birth = tonumber(first[2]), seq = tonumber(string.sub(first[1], 1, 15))}
  fair.update(tenants.get_order(L), tenant, 0, head)
end
function tenants.charge(L, R, key)
  remove_dormant(L)
  local tenant, policy = find_tenant(key), policies[L.policy]
  tenants.wake_tenant(L, tenant)
  if policy.is_metered then policy.charge(tenants.get_scope(L, tenant), key, R[AGENT], R[WEIGHT]) end
  fair.charge(tenants.get_order(L), tenant, tenant, R[WEIGHT])
end
function tenants.settle(L, R, key, correction)
  local tenant, policy = find_tenant(key), policies[L.policy]
  if policy.is_metered then
    policy.settle(tenants.get_scope(L, tenant), key, R[AGENT], correction, R[CHARGED_AT])
  end
  fair.settle(tenants.get_order(L), tenant, tenant, correction)
end
function tenants.list_scopes(L)
  if not L.is_tenanted then return {get_scope(L, '')} end
  local scopes = {}
  for _, field in ipairs(call('HKEYS', prefix .. 'line:' .. L.name)) do
    local tenant = string.match(field, '^state' .. L.suffix .. '\31(.*)$')
    if tenant then tenants.get_scope(L, tenant) end
  end
  for _, P in pairs(L.scopes) do scopes[#scopes + 1] = P end
  return scopes
end
-- Removes what the policies have stored.
function tenants.clear_scopes(L)
  for _, P in ipairs(tenants.list_scopes(L)) do
    policies[L.policy].clear(P)
    if L.is_tenanted then call('DEL', P.ages) end
  end
  if L.is_tenanted then
    for tenant in pairs(L.scopes) do forget_tenant(L, tenant) end
    fair.clear(tenants.get_order(L))
    call('DEL', dormant_key(L))
    call('HDEL', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\30')
  end
  L.is_tenanted, L.scopes, L.among, L.scope = false, {}, false, make_scope(L, '')
end
function tenants.save(L)
  local states = {['state' .. L.suffix .. '\30'] = format_state(tenants.get_order(L))}
  save_accounts(L.among, fair.format)
  for tenant, P in pairs(L.scopes) do
    save_accounts(P, policies[L.policy].format)
    states['state' .. L.suffix .. '\31' .. tenant] = format_state(P)
  end
  write_fields(prefix .. 'line:' .. L.name, states)
end
end)
end
