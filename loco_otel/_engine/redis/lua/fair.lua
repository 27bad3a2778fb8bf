-- Policy `fair`: start-time fair queueing, as _core/policies/fair.py. `agents` holds tag|competes|open calls|member of
-- each account, where `competes` is 2 from a charge until the next update; `tags` has the competing agents by tag: equal tags are in the order of the members, which begin with the
-- owing flag, birth and sequence number of the head. `idle` holds the accounts without waiters and open calls.
fair.is_metered = true
define_later(fair, function()
local MAX_IDLE = 1000
function fair.read_account(P, key)
  local A = P.accounts[key]
  if A then return A end
  local s = call('HGET', P.agents, key)
  if not s then return {tag = P.virtual, competes = false, is_granted = false, open = 0, member = ''} end
  local tag, competes, open, member = string.match(s, '^(%-?%d+)|(%d)|(%d+)|(.*)$')
  A = {tag = tonumber(tag), competes = competes ~= '0', is_granted = competes == '2', open = tonumber(open),
       member = member}
  P.accounts[key] = A
  return A
end
local function write_account(P, key, A) P.accounts[key], P.changed[key] = A, true end
function fair.format(A)
  return fmt('%.0f|%s|%.0f|', A.tag, A.competes and (A.is_granted and '2' or '1') or '0', A.open) .. A.member
end
local function advance_virtual(P, virtual)
  while true do
    local r = call('ZRANGE', P.idle, 0, 0, 'WITHSCORES')
    if #r == 0 or (virtual and tonumber(r[2]) > virtual) then break end
    call('ZREM', P.idle, r[1])
    remove_account(P, r[1])
    if P.on_removed then P.on_removed(r[1]) end
  end
  if virtual then P.virtual = virtual end
end
local function activate(P, key, A)
  call('ZREM', P.idle, key)
  if A.tag < P.virtual then A.tag = P.virtual end
end
local function deactivate(P, key, A)
  if A.open > 0 then return end
  call('ZADD', P.idle, int(A.tag), key)
  if P.open == 0 and call('ZCARD', P.tags) == 0 then
    advance_virtual(P, nil)
    P.virtual = 0
  elseif A.tag <= P.virtual then advance_virtual(P, P.virtual)
  elseif call('ZCARD', P.idle) > MAX_IDLE then
    advance_virtual(P, tonumber(call('ZRANGE', P.idle, 0, 0, 'WITHSCORES')[2]))
  end
end
function fair.position(head) return fmt('%015.0f%015.0f', head.birth, head.seq) end
function fair.update(P, key, _, head)
  local A = fair.read_account(P, key)
  if not head then
    if not A.competes then return end
    call('ZREM', P.tags, A.member)
    A.competes, A.member = false, ''
    write_account(P, key, A)
    deactivate(P, key, A)
    return
  end
  local owing
  if A.competes then
    local granted = A.is_granted
    if not granted and string.sub(A.member, 2, 31) == fair.position(head) then return end
    call('ZREM', P.tags, A.member)
    owing = granted or string.sub(A.member, 1, 1) == '1'
  else
    owing = A.tag > P.virtual
    activate(P, key, A)
    A.competes = true
  end
  A.is_granted = false
  A.member = (owing and '1' or '0') .. fair.position(head) .. key
  call('ZADD', P.tags, int(A.tag), A.member)
  write_account(P, key, A)
end
function fair.pick(P)
  local r = call('ZRANGE', P.tags, 0, 0, 'WITHSCORES')
  return string.sub(r[1], 32), (P.virtual - tonumber(r[2])) / 1000000
end
function fair.score(P, key) return (P.virtual - fair.read_account(P, key).tag) / 1000000 end
function fair.find_share(P, agent) return P.shares and P.shares[string.match(agent, '[^\31]*$')] or 1000 end
local function compute_increment(P, agent, weight)
  return P.shares and math.ceil(weight * 1000000 / fair.find_share(P, agent)) or weight * 1000
end
function fair.charge(P, key, agent, weight)
  local A = fair.read_account(P, key)
  if not A.competes then activate(P, key, A) end
  local first = call('ZRANGE', P.tags, 0, 0, 'WITHSCORES')
  local start = A.tag
  if #first > 0 and tonumber(first[2]) < start then start = tonumber(first[2]) end
  if start > P.virtual then advance_virtual(P, start) end
  local increment = compute_increment(P, agent, weight)
  A.tag, A.open = A.tag + increment, A.open + 1
  A.is_granted = A.is_granted or (A.competes and increment ~= 0)
  P.open = P.open + 1
  write_account(P, key, A)
end
function fair.settle(P, key, agent, delta)
  local A = fair.read_account(P, key)
  if A.open == 0 then return end
  A.open = A.open - 1
  P.open = P.open - 1
  A.tag = A.tag + compute_increment(P, agent, delta)
  write_account(P, key, A)
  if not A.competes then deactivate(P, key, A)
  elseif delta ~= 0 then
    A.is_granted = false
    call('ZADD', P.tags, int(A.tag), A.member)
  end
end
function fair.clear(P)
  call('DEL', P.agents, P.tags, P.idle)
  P.accounts, P.changed = {}, {}
  P.virtual, P.open = 0, 0
end
end)
