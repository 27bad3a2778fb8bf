-- Policy `fair`: start-time fair queueing, as _core/policies/fair.py. `agents` holds tag|competes|open calls|member of
-- each account, `tags` the competing agents by tag: equal tags are in the order of the members, which begin with the
-- owing flag, birth and sequence number of the head. `idle` holds the accounts without waiters and open calls.
local fair = {is_metered = true}
local MAX_IDLE = 1000
local function read_account(L, agent)
  local s = call('HGET', L.agents, agent)
  if not s then return {tag = L.virtual, competes = false, open = 0, member = ''} end
  local tag, competes, open, member = string.match(s, '^(%-?%d+)|(%d)|(%d+)|(.*)$')
  return {tag = tonumber(tag), competes = competes == '1', open = tonumber(open), member = member, known = true}
end
local function write_account(L, agent, A)
  call('HSET', L.agents, agent, int(A.tag) .. '|' .. (A.competes and '1' or '0') .. '|' .. int(A.open) .. '|' .. A.member)
end
local function advance_virtual(L, virtual)
  while true do
    local r = call('ZRANGE', L.idle, 0, 0, 'WITHSCORES')
    if #r == 0 or (virtual and tonumber(r[2]) > virtual) then break end
    call('ZREM', L.idle, r[1])
    call('HDEL', L.agents, r[1])
  end
  if virtual then L.virtual = virtual end
end
local function activate(L, agent, A)
  call('ZREM', L.idle, agent)
  if A.tag < L.virtual then A.tag = L.virtual end
end
local function deactivate(L, agent, A)
  if A.open > 0 then return end
  call('ZADD', L.idle, int(A.tag), agent)
  if L.open == 0 and call('ZCARD', L.tags) == 0 then
    advance_virtual(L, nil)
    L.virtual = 0
  elseif A.tag <= L.virtual then advance_virtual(L, L.virtual)
  elseif call('ZCARD', L.idle) > MAX_IDLE then
    advance_virtual(L, tonumber(call('ZRANGE', L.idle, 0, 0, 'WITHSCORES')[2]))
  end
end
local function position(head) return fmt('%015.0f%015.0f', head.birth, head.seq) end
function fair.update(L, agent, _, head)
  local A = read_account(L, agent)
  if not head then
    if not A.competes then return end
    call('ZREM', L.tags, A.member)
    A.competes, A.member = false, ''
    write_account(L, agent, A)
    deactivate(L, agent, A)
    return
  end
  local owing
  if A.competes then
    local granted = tonumber(call('ZSCORE', L.tags, A.member)) ~= A.tag
    if not granted and string.sub(A.member, 2, 31) == position(head) then return end
    call('ZREM', L.tags, A.member)
    owing = granted or string.sub(A.member, 1, 1) == '1'
  else
    owing = A.tag > L.virtual
    activate(L, agent, A)
    A.competes = true
  end
  A.member = (owing and '1' or '0') .. position(head) .. agent
  call('ZADD', L.tags, int(A.tag), A.member)
  write_account(L, agent, A)
end
function fair.pick(L)
  local agent = string.sub(call('ZRANGE', L.tags, 0, 0)[1], 32)
  return agent, fair.score(L, agent)
end
function fair.score(L, agent) return (L.virtual - read_account(L, agent).tag) / 1000000 end
local function compute_increment(L, agent, weight)
  if L.shares == '' then return weight * 1000 end
  L.decoded = L.decoded or cjson.decode(L.shares)
  return math.ceil(weight * 1000000 / (L.decoded[agent] or 1000))
end
function fair.charge(L, agent, weight)
  local A = read_account(L, agent)
  if not A.competes then activate(L, agent, A) end
  local first = call('ZRANGE', L.tags, 0, 0, 'WITHSCORES')
  local start = A.tag
  if #first > 0 and tonumber(first[2]) < start then start = tonumber(first[2]) end
  if start > L.virtual then advance_virtual(L, start) end
  A.tag = A.tag + compute_increment(L, agent, weight)
  A.open = A.open + 1
  L.open = L.open + 1
  write_account(L, agent, A)
end
function fair.settle(L, agent, delta)
  local A = read_account(L, agent)
  if not A.known or A.open == 0 then return end
  A.open = A.open - 1
  L.open = L.open - 1
  A.tag = A.tag + compute_increment(L, agent, delta)
  write_account(L, agent, A)
  if not A.competes then deactivate(L, agent, A)
  elseif delta ~= 0 then call('ZADD', L.tags, int(A.tag), A.member) end
end
function fair.clear(L)
  call('DEL', L.agents, L.tags, L.idle)
  L.virtual, L.open = 0, 0
end
