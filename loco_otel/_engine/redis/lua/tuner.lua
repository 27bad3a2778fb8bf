-- Adaptive alpha of policy `load`, as _core/alpha_tuner.py. `tuner` of a line is the tick of the next update, and what the
-- last updates have seen: tick, weight and number of all that waited. It is empty where alpha is constant.
-- Each of these resources has a slot more.
local function advance_ticks(pools)
  for _, L in ipairs(pools[1].is_alone and pools or contest.list_lines(pools)) do
    L.tick = L.tick + 1
    if L.tuner ~= '' then tuner.tune_alpha(L) end
  end
end
define_later(tuner, function()
local STEP, LOW, HIGH, SPREAD, WINDOW, GROWTH, MOST, MARGIN, AGENTS_PER_TICK = 0.01, 0, 0.5, 0.5, 10, 1.2, 0.45, 0.9, 16
local function read_observations(L)
  local seen = {}
  for tick, weight, count in string.gmatch(L.tuner, ';(%d+),(%d+),(%d+)') do
    seen[#seen + 1] = {tick = tonumber(tick), weight = tonumber(weight), count = tonumber(count)}
  end
  return seen
end
local function estimate_arrivals(first, last)
  if last.tick <= first.tick then return 1 end
  return math.max(0, 1 + (last.count - first.count) / (last.tick - first.tick))
end
-- The weight and the birth of each agent's queue, as `weight|birth|...`.
local function list_queues(L)
  if not L.is_tenanted and not get_scope(L, '').is_apart then return call('HVALS', L.scope.agents) end
  local entries, weights = {}, call('HGETALL', L.weights)
  for i = 1, #weights, 2 do
    entries[#entries + 1] = fmt('%s|%.0f|', weights[i + 1], find_head(L.waiters, weights[i]).birth)
  end
  return entries
end
function tuner.tune_alpha(L)
  if L.tick < tonumber(string.match(L.tuner, '^%d+')) then return end
  local entries = list_queues(L)
  local total, squares, weight = 0, 0, 0
  for _, entry in ipairs(entries) do
    local w, birth = string.match(entry, '^(%-?%d+)|(%-?%d+)|')
    local age = L.tick - birth
    total, squares, weight = total + age, squares + age * age, weight + w
  end
  local seen, alpha = read_observations(L), L.alpha
  seen[#seen + 1] = {tick = L.tick, weight = weight, count = L.waiting}
  if #seen > WINDOW then table.remove(seen, 1) end
  local grown = GROWTH * seen[1].weight
  if #entries * squares > (1 + SPREAD * SPREAD) * (total * total) then alpha = alpha - STEP
  elseif #seen == WINDOW and weight > grown and grown > 0 then alpha = alpha + STEP end
  L.alpha = math.max(LOW, math.min(alpha, HIGH, MOST, MARGIN / (1 + estimate_arrivals(seen[1], seen[#seen]))))
  L.tuner = int(L.tick + 1 + math.floor(#entries / AGENTS_PER_TICK))
  for _, it in ipairs(seen) do L.tuner = fmt('%s;%.0f,%.0f,%.0f', L.tuner, it.tick, it.weight, it.count) end
  call('HSET', prefix .. 'line:' .. L.name, 'alpha', fmt('%.17g', L.alpha), 'tuner', L.tuner)
end
end)
