-- The queues of waiters: one for each agent, by which grants are reported. The policy orders them, or with `by_run` those
-- of the runs, which it has apart.
local find_key, compute_score, enqueue, dequeue
do

-- Returns the key of the queue that the policy orders.
function find_key(L, R)
  if (R[RUN] or '') == '' or read_order(L).by_run ~= 1 then return R[AGENT] end
  return find_tenant(R[AGENT]) .. '\31' .. R[RUN] .. '\31run'
end
function compute_score(L, R)
  local key = find_key(L, R)
  return policies[L.policy].score(get_scope(get_level(L, find_class(R)), key), key)
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
define_later(reordering, function()
-- Puts all waiters into the queues and scopes in force.
function reordering.fill_scopes(L)
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
function reordering.empty_scopes(L)
  local P = get_scope(L, '')
  if P.is_apart then
    for _, key in ipairs(call('HKEYS', P.weights)) do call('DEL', P.waiters .. key) end
    call('DEL', P.weights)
  end
  tenants.clear_scopes(L)
  L.version = L.version + 1
end
local function names_tenant(L)
  if not L.is_classed then
    for _, key in ipairs(call('HKEYS', L.weights)) do if find_tenant(key) ~= '' then return true end end
    return false
  end
  for _, member in ipairs(call('ZRANGE', L.ages, 0, -1)) do
    if find_tenant(read_ticket(string.sub(member, 16))[AGENT]) ~= '' then return true end
  end
  return false
end
-- Orders all waiters of some lines again: `change` replaces what those of one were ordered by.
function reordering.replace_orders(reordered, change)
  for _, L in ipairs(reordered) do
    for _, V in ipairs(levels.list(L)) do reordering.empty_scopes(V) end
    classes.clear(L)
  end
  for _, L in ipairs(reordered) do
    change(L)
    L.facts = nil
    L.is_classed = L.is_classed or classes.has_ceiling(L, 1)
  end
  for _, L in ipairs(reordered) do
    for _, V in ipairs(levels.list(L)) do
      V.is_tenanted, V.scope.is_ready = names_tenant(V), nil
      reordering.fill_scopes(V)
    end
    if L.is_classed then classes.update(L) end
  end
end
-- Orders by class from now on: the queues by agent hold waiters of all classes, so the policy gets queues apart.
function reordering.enable_classes(L)
  if L.is_classed then return end
  local was_apart = get_scope(L, '').is_apart
  L.is_classed, L.scope.is_ready = true, nil
  for _, P in pairs(L.scopes) do prepare_scope(L, P) end
  for _, member in ipairs(was_apart and {} or call('ZRANGE', L.ages, 0, -1)) do
    local R = read_ticket(string.sub(member, 16))
    local key = find_key(L, R)
    local P = get_scope(L, key)
    add_to_queue(P.waiters, P.weights, key, R, member)
  end
  classes.update(L)
end
end)
function enqueue(L, id, R)
  local V, key, member = get_level(L, find_class(R)), find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  call('ZADD', V.ages, int(R[BIRTH]), member)
  L.waiting, L.oldest = L.waiting + 1, nil
  local weight = add_to_queue(L.waiters, L.weights, R[AGENT], R, member)
  if R[DUE] then levels.add_due(L, V, R, member) end
  if not V.is_tenanted and find_tenant(R[AGENT]) ~= '' then
    reordering.empty_scopes(V)
    V.is_tenanted = true
    reordering.fill_scopes(V)
    if L.is_classed then classes.update(L) end
    return
  end
  local P = get_scope(V, key)
  if P.is_apart then weight = add_to_queue(P.waiters, P.weights, key, R, member) end
  if V.is_tenanted then
    tenants.wake_tenant(V, find_tenant(key))
    call('ZADD', P.ages, int(R[BIRTH]), member)
  end
  update_queue(V, P, key, weight, find_head(P.waiters, key))
  if L.is_classed then classes.update(L) end
end
-- Returns the weight that its agent's other waiters have.
function dequeue(L, id, R)
  local V, key, member = get_level(L, find_class(R)), find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  local P = get_scope(V, key)
  call('ZREM', V.ages, member)
  if V.is_tenanted then call('ZREM', P.ages, member) end
  if R[DUE] then levels.remove_due(V, R, member) end
  L.waiting, L.oldest = L.waiting - 1, nil
  if L.waiting == 0 then L.gate = '' end
  if not L.is_alone then contest.unreserve(L) end
  local head, left = remove_from_queue(L.waiters, L.weights, R[AGENT], R, member)
  local weight = left
  if P.is_apart then head, weight = remove_from_queue(P.waiters, P.weights, key, R, member) end
  update_queue(V, P, key, weight, head)
  if L.is_classed then classes.update(L) end
  return left
end
end
