-- Policy `load`, as _core/policies/load.py: a sorted set of agents by birth for each distinct weight; `tops` has these
-- weights by the birth of the oldest agent, `loads` by themselves. `agents` holds weight|birth|member of each agent that
-- waits.
load.is_metered = false
define_later(load, function()
local function update_top(P, weight)
  local r = call('ZRANGE', P.bucket .. weight, 0, 0, 'WITHSCORES')
  if #r == 0 then
    call('ZREM', P.tops, weight)
    call('ZREM', P.loads, weight)
  else
    call('ZADD', P.tops, r[2], weight)
  end
end
function load.update(P, key, weight, head)
  local known = call('HGET', P.agents, key)
  weight = int(weight)
  if known then
    local w, b, member = string.match(known, '^(%-?%d+)|(%-?%d+)|(.*)$')
    if head and w == weight and tonumber(b) == head.birth then return end
    call('ZREM', P.bucket .. w, member)
    update_top(P, w)
  end
  if not head then call('HDEL', P.agents, key) return end
  local member = fmt('%015.0f', head.seq) .. key
  call('HSET', P.agents, key, weight .. '|' .. int(head.birth) .. '|' .. member)
  call('ZADD', P.bucket .. weight, head.birth, member)
  local top = call('ZSCORE', P.tops, weight)
  if not top then call('ZADD', P.loads, weight, weight) end
  if not top or tonumber(top) > head.birth then call('ZADD', P.tops, head.birth, weight) end
end
-- The greatest weight and age.
local function read_maxima(P)
  local weight = call('ZRANGE', P.loads, -1, -1)[1]
  local top = call('ZRANGE', P.tops, 0, 0, 'WITHSCORES')
  return tonumber(weight or '0'), P.line.tick - tonumber(top[2] or int(P.line.tick))
end
local function compute_load(P, weight, max_weight, age, max_age)
  local score, alpha = 0, P.line.alpha
  if max_weight > 0 then score = alpha * weight / max_weight end
  if max_age > 0 then score = score + (1.0 - alpha) * age / max_age end
  return score
end
-- The heaviest and the oldest are compared in turn, until no other can score as much.
function load.pick(P)
  local max_weight, max_age
  local best, birth, weight, member = -1, 0, nil, nil
  local function first(w) return call('ZRANGE', P.bucket .. w, 0, 0)[1] end
  local function compare(w, b)
    if w == weight then return end
    local score = compute_load(P, tonumber(w), max_weight, P.line.tick - b, max_age)
    if score > best or (score == best and b < birth) then best, birth, weight, member = score, b, w, nil
    elseif score == best and b == birth then
      member = member or first(weight)
      local other = first(w)
      if other < member then weight, member = w, other end
    end
  end
  local from, count, decided = 0, 16, false
  repeat
    local heavy = call('ZREVRANGE', P.loads, from, from + count - 1)
    local old = call('ZRANGE', P.tops, from, from + count - 1, 'WITHSCORES')
    local births = #heavy > 0 and call('ZMSCORE', P.tops, unpack(heavy)) or {}
    if from == 0 then max_weight, max_age = tonumber(heavy[1]), P.line.tick - tonumber(old[2]) end
    for i = 1, #heavy do
      local b = tonumber(old[2 * i])
      compare(heavy[i], tonumber(births[i]))
      compare(old[2 * i - 1], b)
      decided = compute_load(P, tonumber(heavy[i]), max_weight, P.line.tick - b, max_age) < best
      if decided then break end
    end
    decided = decided or #heavy < count
    from, count = from + count, math.min(count * 2, 1024)
  until decided
  return string.sub(member or first(weight), 16), best
end
function load.score(P, key)
  local weight, birth = string.match(call('HGET', P.agents, key), '^(%-?%d+)|(%-?%d+)|')
  local max_weight, max_age = read_maxima(P)
  return compute_load(P, tonumber(weight), max_weight, P.line.tick - tonumber(birth), max_age)
end
function load.clear(P)
  for _, weight in ipairs(call('ZRANGE', P.loads, 0, -1)) do call('DEL', P.bucket .. weight) end
  call('DEL', P.tops, P.loads, P.agents)
end
end)
