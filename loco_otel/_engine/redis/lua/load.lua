-- Policy `load`, as _core/policies/load.py: a sorted set of agents by birth for each distinct weight, and in `tops` the
-- oldest birth of each weight. `agents` holds weight|birth|member of each agent that waits.
local load = {is_metered = false}
local function update_top(L, weight)
  local r = call('ZRANGE', L.bucket .. weight, 0, 0, 'WITHSCORES')
  if #r == 0 then call('HDEL', L.tops, weight) else call('HSET', L.tops, weight, r[2]) end
end
function load.update(L, agent, weight, head)
  local known = call('HGET', L.agents, agent)
  weight = int(weight)
  if known then
    local w, b, member = string.match(known, '^(%-?%d+)|(%-?%d+)|(.*)$')
    if head and w == weight and tonumber(b) == head.birth then return end
    call('ZREM', L.bucket .. w, member)
    update_top(L, w)
  end
  if not head then call('HDEL', L.agents, agent) return end
  local member = fmt('%015.0f', head.seq) .. agent
  call('HSET', L.agents, agent, weight .. '|' .. int(head.birth) .. '|' .. member)
  call('ZADD', L.bucket .. weight, head.birth, member)
  local top = call('HGET', L.tops, weight)
  if not top or tonumber(top) > head.birth then call('HSET', L.tops, weight, int(head.birth)) end
end
local function read_tops(L)
  local h = call('HGETALL', L.tops)
  local weights, births, max_weight, min_birth = {}, {}, 0, math.huge
  for i = 1, #h, 2 do
    local w, b = tonumber(h[i]), tonumber(h[i + 1])
    weights[#weights + 1], births[#births + 1] = w, b
    if w > max_weight then max_weight = w end
    if b < min_birth then min_birth = b end
  end
  return weights, births, max_weight, L.tick - min_birth
end
local function compute_load(L, weight, max_weight, age, max_age)
  local score = 0
  if max_weight > 0 then score = L.alpha * weight / max_weight end
  if max_age > 0 then score = score + (1.0 - L.alpha) * age / max_age end
  return score
end
function load.pick(L)
  local weights, births, max_weight, max_age = read_tops(L)
  local best, birth, weight, member = -1, 0, nil, nil
  local function first(w) return call('ZRANGE', L.bucket .. int(w), 0, 0)[1] end
  for i = 1, #weights do
    local w, b = weights[i], births[i]
    local score = compute_load(L, w, max_weight, L.tick - b, max_age)
    if score > best or (score == best and b < birth) then best, birth, weight, member = score, b, w, nil
    elseif score == best and b == birth then
      member = member or first(weight)
      local other = first(w)
      if other < member then weight, member = w, other end
    end
  end
  return string.sub(member or first(weight), 16), best
end
function load.score(L, agent)
  local weight, birth = string.match(call('HGET', L.agents, agent), '^(%-?%d+)|(%-?%d+)|')
  local _, _, max_weight, max_age = read_tops(L)
  return compute_load(L, tonumber(weight), max_weight, L.tick - tonumber(birth), max_age)
end
function load.clear(L)
  for _, weight in ipairs(call('HKEYS', L.tops)) do call('DEL', L.bucket .. weight) end
  call('DEL', L.tops, L.agents)
end
