-- The queues of waiters: one for each agent, by which grants are reported. The policy orders them, or with `by_run` those
-- of the runs, which it has apart.

-- The oldest waiter of a queue: {birth, seq, id}.
local function find_head(waiters, key)
  local r = call('ZRANGE', waiters .. key, 0, 0, 'WITHSCORES')
  if #r == 0 then return nil end
  return {birth = tonumber(r[2]), seq = tonumber(string.sub(r[1], 1, 15)), id = string.sub(r[1], 16)}
end
-- Returns the key of the queue that the policy orders.
local function find_key(L, R)
  if (R[RUN] or '') == '' or read_order(L).by_run ~= 1 then return R[AGENT] end
  return find_tenant(R[AGENT]) .. '\31' .. R[RUN] .. '\31run'
end
local function compute_score(L, R)
  local key = find_key(L, R)
  return policies[L.policy].score(get_scope(L, key), key)
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
local function update_queue(L, P, key, weight, head)
  policies[L.policy].update(P, key, weight, head)
  if L.is_tenanted then tenants.update(L, find_tenant(key)) end
end
-- Puts all waiters into the queues and scopes in force.
local function fill_scopes(L)
  local members, keys = call('ZRANGE', L.ages, 0, -1), {}
  for _, member in ipairs(members) do
    if L.is_tenanted or get_scope(L, '').is_apart then
      local R = read_ticket(string.sub(member, 16))
      local key = find_key(L, R)
      local P = get_scope(L, key)
      if P.is_apart then add_to_queue(P.waiters, P.weights, key, R, member) end
      if L.is_tenanted then call('ZADD', P.ages, int(R[BIRTH]), member) end
    end
  end
  local weights = call('HGETALL', get_scope(L, '').weights)
  for i = 1, #weights, 2 do
    local P = get_scope(L, weights[i])
    update_queue(L, P, weights[i], tonumber(weights[i + 1]), find_head(P.waiters, weights[i]))
  end
end
local function empty_scopes(L)
  local P = get_scope(L, '')
  if P.is_apart then
    for _, key in ipairs(call('HKEYS', P.weights)) do call('DEL', P.waiters .. key) end
    call('DEL', P.weights)
  end
  clear_scopes(L)
  L.version = L.version + 1
end
-- Orders all waiters anew: `change` replaces what they were ordered by.
local function replace_order(L, change)
  empty_scopes(L)
  change()
  L.facts = nil
  for _, key in ipairs(call('HKEYS', L.weights)) do L.is_tenanted = L.is_tenanted or find_tenant(key) ~= '' end
  fill_scopes(L)
end
local function enqueue(L, id, R)
  local key, member = find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  call('ZADD', L.ages, int(R[BIRTH]), member)
  L.waiting = L.waiting + 1
  local weight = add_to_queue(L.waiters, L.weights, R[AGENT], R, member)
  if not L.is_tenanted and find_tenant(R[AGENT]) ~= '' then
    empty_scopes(L)
    L.is_tenanted = true
    return fill_scopes(L)
  end
  local P = get_scope(L, key)
  if P.is_apart then weight = add_to_queue(P.waiters, P.weights, key, R, member) end
  if L.is_tenanted then
    wake_tenant(L, find_tenant(key))
    call('ZADD', P.ages, int(R[BIRTH]), member)
  end
  update_queue(L, P, key, weight, find_head(P.waiters, key))
end
-- Returns the weight that its agent's other waiters have.
local function dequeue(L, id, R)
  local key, member = find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  local P = get_scope(L, key)
  call('ZREM', L.ages, member)
  if L.is_tenanted then call('ZREM', P.ages, member) end
  L.waiting = L.waiting - 1
  if L.waiting == 0 then L.gate = '' end
  local head, left = remove_from_queue(L.waiters, L.weights, R[AGENT], R, member)
  local weight = left
  if P.is_apart then head, weight = remove_from_queue(P.waiters, P.weights, key, R, member) end
  update_queue(L, P, key, weight, head)
  return left
end
