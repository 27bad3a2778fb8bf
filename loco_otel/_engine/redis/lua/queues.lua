-- The queues of waiters: one for each agent, by which grants are reported. The policy orders them, or with `by_run` those
-- of the runs, which it has apart.
local policies = {load = load, fair = fair, las = las, fifo = fifo}
local function read_order(L)
  if not L.facts then L.facts = L.order ~= '' and cjson.decode(L.order) or {} end
  return L.facts
end
local function get_scope(L)
  local P = L.scope
  if P.is_apart == nil then
    local facts = read_order(L)
    P.is_apart = facts.by_run == 1
    if P.is_apart then
      P.weights, P.waiters = prefix .. 'run:weights:' .. L.name, prefix .. 'run:waiters:' .. L.name .. ':'
    end
    P.shares = L.shares ~= '' and cjson.decode(L.shares) or nil
    P.half_life, P.idle_timeout = tonumber(facts.half_life), tonumber(facts.idle_timeout)
  end
  return P
end
-- The oldest waiter of a queue: {birth, seq, id}.
local function find_head(waiters, key)
  local r = call('ZRANGE', waiters .. key, 0, 0, 'WITHSCORES')
  if #r == 0 then return nil end
  return {birth = tonumber(r[2]), seq = tonumber(string.sub(r[1], 1, 15)), id = string.sub(r[1], 16)}
end
-- Returns the key of the queue that the policy orders.
local function find_key(L, R)
  if (R[RUN] or '') == '' or read_order(L).by_run ~= 1 then return R[AGENT] end
  return (string.match(R[AGENT], '^(.*)\31') or '') .. '\31' .. R[RUN] .. '\31run'
end
local function add_to_queue(waiters, weights, key, R, member)
  call('ZADD', waiters .. key, int(R[BIRTH]), member)
  return call('HINCRBY', weights, key, int(R[WEIGHT]))
end
-- Returns the head and the weight of what is left.
local function remove_from_queue(waiters, weights, key, R, member)
  call('ZREM', waiters .. key, member)
  local head = find_head(waiters, key)
  if head then return head, call('HINCRBY', weights, key, int(-R[WEIGHT])) end
  call('HDEL', weights, key)
  return nil, 0
end
local function enqueue(L, id, R)
  local P, key, member = get_scope(L), find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  call('ZADD', P.ages, int(R[BIRTH]), member)
  L.waiting = L.waiting + 1
  local weight = add_to_queue(L.waiters, L.weights, R[AGENT], R, member)
  if P.is_apart then weight = add_to_queue(P.waiters, P.weights, key, R, member) end
  policies[L.policy].update(P, key, weight, find_head(P.waiters, key))
end
-- Returns the weight that its agent's other waiters have.
local function dequeue(L, id, R)
  local P, key, member = get_scope(L), find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  call('ZREM', P.ages, member)
  L.waiting = L.waiting - 1
  if L.waiting == 0 then L.gate = '' end
  local head, left = remove_from_queue(L.waiters, L.weights, R[AGENT], R, member)
  local weight = left
  if P.is_apart then head, weight = remove_from_queue(P.waiters, P.weights, key, R, member) end
  policies[L.policy].update(P, key, weight, head)
  return left
end
-- Orders all waiters anew, under another policy or by other keys: `change` replaces what they were ordered by.
local function replace_order(L, change)
  local before = get_scope(L)
  local members = call('ZRANGE', before.ages, 0, -1)
  local function each(P, visit)
    if not P.is_apart then return end
    for _, member in ipairs(members) do
      local R = read_ticket(string.sub(member, 16))
      visit(find_key(L, R), R, member)
    end
  end
  policies[L.policy].clear(before)
  each(before, function(key) call('DEL', before.waiters .. key, before.weights) end)
  change()
  L.version, L.facts = L.version + 1, nil
  L.scope = make_scope(L, '')
  local P = get_scope(L)
  each(P, function(key, R, member) add_to_queue(P.waiters, P.weights, key, R, member) end)
  local weights = call('HGETALL', P.weights)
  for i = 1, #weights, 2 do
    policies[L.policy].update(P, weights[i], tonumber(weights[i + 1]), find_head(P.waiters, weights[i]))
  end
end
