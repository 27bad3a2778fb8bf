-- What happens to tickets: submit, grant, suspend, end. A step grants while there is room.
local granted, wakes, learning, report, charge, count_sharers, hold, grant, reject_overdue, fill, end_ticket,
  suspend_ticket, add_facts, submit_ticket
do
granted, wakes = {}, {}
learning = learning_until > now

function report(id, R, answer)
  if R[OWNER] == owner then granted[#granted + 1] = answer
  else
    local list = wakes[R[OWNER]]
    if not list then list = {}; wakes[R[OWNER]] = list end
    list[#list + 1] = answer
  end
end
function charge(L, R)
  local policy, V = policies[L.policy], get_level(L, find_class(R))
  if not (policy.is_metered or V.is_tenanted) or R[CHARGED] == V.version then return end
  R[CHARGED] = V.version
  if policy.is_dated then R[RUN], R[CHARGED_AT] = R[RUN] or '', seconds end
  local key = find_key(L, R)
  if V.is_tenanted then tenants.charge(V, R, key) else policy.charge(get_scope(V, key), key, R[AGENT], R[WEIGHT]) end
end
local function settle(L, R, correction)
  local V = get_level(L, find_class(R))
  if R[CHARGED] == V.version then
    local key = find_key(L, R)
    if V.is_tenanted then tenants.settle(V, R, key, correction)
    else policies[L.policy].settle(get_scope(V, key), key, R[AGENT], correction, R[CHARGED_AT]) end
  end
  if R[CLASS] then classes.settle(L, R, correction) end
end
function count_sharers(L)
  L.sharers = L.sharers or call('ZCARD', L.shared)
  return L.sharers
end
-- `lenders` is nil, or has the lease that owns the slot of each resource in which this one shares it.
function hold(pools, id, R, lenders)
  R[STATE], R[LENDER] = lenders and SHARED or HELD, lenders or ''
  for _, P in ipairs(pools) do
    if lenders and lenders[P.name] then P.sharers = count_sharers(P) + call('ZADD', P.shared, now, id)
    else
      if R[CLASS] then classes.add_slot(P, id, R) end
      call('ZADD', P.held, now, id)
      P.used = P.used + 1
    end
  end
end
-- Grants a ticket. `head` is that of its agent's queue if the ticket waits, nil if it is new.
function grant(L, id, R, reason, score, head, lenders)
  local queued = head or (L.waiting > 0 and find_head(L.waiters, R[AGENT]))
  local weight, age = R[WEIGHT], L.tick - (queued and queued.birth or R[BIRTH])
  if queued and not head then weight = tonumber(call('HGET', L.weights, R[AGENT])) end
  charge(L, R)
  if head and L.is_classed then classes.charge(L, R) end
  take_rates(L, 1, R[TOKENS] or 0)
  if head then weight = weight + dequeue(L, id, R) end
  local ticks = L.tick - R[BIRTH]
  -- After a loss of state the ticks before may be more.
  local before = math.min(R[WAITED], ticks)
  R[WAITED], R[REASON] = ticks, reason
  hold(L.pools, id, R, lenders)
  write_ticket(id, R)
  report(id, R, {id, reason, L.tick, ticks - before, ticks, fmt('%.17g', score), weight, age, R[LENDER]})
end
-- Ends a wait whose deadline has passed, and that its process has not ended yet. Returns whether it has passed.
function reject_overdue(L, id, R)
  if (R[DUE] or -1) < 0 or R[DUE] > now then return false end
  dequeue(L, id, R)
  settle(L, R, 0)
  write_ticket(id, false)
  call('SREM', prefix .. 'own:' .. R[OWNER], id)
  report(id, R, {id, 'late'})
  return true
end
function fill(L)
  if learning then return end
  if not L.is_alone then return contest.fill(L.pools) end
  while L.waiting > 0 and L.used < L.limit do
    local V = L
    if L.is_classed then V = classes.pick(L) end
    if not V then return end
    local id, reason, score, head = levels.select_next(L, V)
    local R = read_ticket(id)
    local opened, gate = is_open(L, R)
    L.gate = gate or ''
    if not opened then return end
    if not reject_overdue(L, id, R) then
      grant(L, id, R, reason, score or compute_score(L, R), head or find_head(L.waiters, R[AGENT]))
    end
  end
end

-- Ends a lease. A slot that another lease shares passes to it; at the other resources a slot is free, and a tick passes.
local function free_slots(L, id, R)
  local freed = {}
  for _, P in ipairs(L.pools) do
    if R[LENDER] ~= '' and R[LENDER][P.name] then P.sharers = count_sharers(P) - call('ZREM', P.shared, id)
    elseif call('ZREM', P.held, id) == 1 then
      if R[CLASS] then classes.remove_slot(P, id, R) end
      P.used = P.used - 1
      if count_sharers(P) == 0 or not sharing.pass_slot(P, id) then freed[#freed + 1] = P end
    end
  end
  if #freed > 0 then advance_ticks(freed) end
end
-- `requests` and `tokens` are what it takes of the rates beyond its estimate; of a lease alone, as a waiter took nothing.
-- `succeeded`: whether the call ended well, by which an adaptive limit grows.
function end_ticket(id, correction, requests, tokens, succeeded)
  local R = read_ticket(id)
  if not R then return end
  local L, state = get_line(R[LINE]), R[STATE]
  if state == HELD or state == SHARED then
    take_rates(L, requests, tokens)
    for _, P in ipairs(L.pools) do if succeeded == 1 and read_auto(P) then limits.record_success(P) end end
  end
  write_ticket(id, false)
  call('SREM', prefix .. 'own:' .. R[OWNER], id)
  if state == WAITING then dequeue(L, id, R) end
  settle(L, R, correction)
  if state == HELD or state == SHARED then free_slots(L, id, R) end
  if state ~= SUSPENDED then fill(L) end
end
function suspend_ticket(id, requests, tokens)
  local R = read_ticket(id)
  if not R or (R[STATE] ~= HELD and R[STATE] ~= SHARED) then return end
  local L = get_line(R[LINE])
  take_rates(L, requests, tokens)
  free_slots(L, id, R)
  R[STATE], R[LENDER] = SUSPENDED, ''
  write_ticket(id, R)
  fill(L)
end
-- What most tickets do not have: a run, another class than `normal`, ms until its deadline; -1 is none.
function add_facts(L, R, run, class, due)
  if not class then return end
  R[RUN], R[CHARGED_AT], R[CLASS], R[DUE] = run, R[CHARGED_AT] or 0, class, due < 0 and -1 or now + due
  R[CLASS_CHARGED] = R[CLASS_CHARGED] or -1
  if class ~= 1 then reordering.enable_classes(L) end
end
-- Returns whether a new ticket has to wait: no slot is free, or others wait.
local function must_queue(L, R)
  local has_room = L.used < L.limit
  if not L.is_alone then has_room = contest.has_room(L) end
  if not has_room then return true end
  if L.is_classed then return classes.must_queue(L, R) end
  return L.waiting > 0
end
-- A new ticket, or a suspended one that returns, with the ticks that it waited before. One that may not wait is refused
-- if it is not granted at once.
function submit_ticket(id, name, agent, weight, waited, immediate, tokens, run, class, due)
  local is_new = call('SADD', prefix .. 'own:' .. owner, id) == 1
  local R = not is_new and read_ticket(id)
  if R and R[STATE] ~= SUSPENDED then return end
  local L = get_line(name)
  if not R then
    last_seq = last_seq + 1
    R = {name, agent, weight, owner, 0, last_seq, WAITING, -1, 0, waited, '', '', tokens}
  end
  add_facts(L, R, run, class, due)
  R[STATE], R[SINCE], R[BIRTH] = WAITING, now, math.max(0, L.tick - R[WAITED])
  if not learning and not must_queue(L, R) and is_open(L, R) then
    return grant(L, id, R, 'free', 0, nil)
  end
  if immediate == 1 then
    -- One that returns from a pause stays suspended, until its process ends it.
    R[STATE] = SUSPENDED
    if is_new then call('SREM', prefix .. 'own:' .. owner, id) end
    granted[#granted + 1] = {id, 'full'}
    return
  end
  write_ticket(id, R)
  enqueue(L, id, R)
  -- Without rates and pauses it waits for a slot, whose release fills.
  if L.is_alone or contest.is_gated(L) then fill(L) end
end
end
