-- A sync registers all that a process has, in parts, the leases first. What the process states (capacity, policy,
-- guard, shares) travels with it and is in force before its tickets are.
-- statement: {name, limit, policy, alpha, guard, shares, stated, requests and tokens per minute, ceiling, auto_tune, order};
-- a limit below 0 adapts to the provider up to the ceiling, and `order` is what else decides the order, see statements.py.
-- A statement that was never made before is made now; one that is older than that in force is ignored.
define_later(syncs, function()
-- Returns the answer that repeats the grant of a lease.
function syncs.describe_lease(id, R)
  return {id, R[REASON], get_line(R[LINE]).tick, R[WAITED], R[WAITED], '0', R[WEIGHT], R[WAITED], R[LENDER]}
end
local function apply_limits(s)
  local L = get_line(s[1])
  local stated = s[7] == 0 and math.max(now, L.stated + 1) or s[7]
  call('ZADD', LINES, now, L.name)
  if stated <= L.stated then return nil end
  -- Another capacity alone changes no order.
  L.is_reordered = L.policy ~= s[3] or L.stated_alpha ~= tonumber(s[4]) or L.guard ~= s[5] or L.shares ~= s[6]
    or L.stated == 0 or (s[11] == 1) ~= (L.tuner ~= '') or L.order ~= s[12]
  L.stated = stated
  limits.set_capacity(L, s[2], tonumber(s[10]))
  rates.set(L, tonumber(s[8]), tonumber(s[9]))
  call('HSET', prefix .. 'line:' .. L.name, 'stated', int(stated), 'rated', L.rated and 1 or 0)
  return L
end
-- What is stated together is in force together. The order of a wide line is that of its first resource.
function syncs.apply_statements(statements)
  local changed, reordered, sources = {}, {}, {}
  for _, s in ipairs(statements) do
    local L = apply_limits(s)
    if L then changed[#changed + 1] = L.name end
    if L and L.is_reordered then
      for _, rival in ipairs(contest.list_lines({L})) do
        if rival.pools[1] == L then
          reordered[#reordered + 1] = rival
          sources[rival] = s
        end
      end
    end
  end
  reordering.replace_orders(reordered, function(L)
    local s = sources[L]
    L.policy, L.alpha, L.stated_alpha, L.guard, L.shares, L.order = s[3], tonumber(s[4]), tonumber(s[4]), s[5], s[6], s[12]
    L.tuner = s[11] == 1 and '0' or ''
  end)
  for _, L in ipairs(reordered) do contest.save_order(L) end
  table.sort(changed)
  for _, name in ipairs(changed) do fill(get_line(name)) end
  processes.remove_unused_lines()
end
-- ticket: {id, line, agent, weight, waited ticks, state, tick, tokens, run, class, due}, the last three only
-- where they are not the usual ones
local function register_ticket(s)
  local id, state = s[1], s[6]
  call('SREM', prefix .. 'unseen:' .. owner, id)
  local L = get_line(s[2])
  if s[7] > L.tick then L.tick = s[7] end
  local R = read_ticket(id)
  if R and R[OWNER] ~= owner then return end
  if state == WAITING then
    if not R or R[STATE] == SUSPENDED then submit_ticket(id, s[2], s[3], s[4], s[5], 0, s[8], s[9], s[10], s[11])
    elseif R[STATE] ~= WAITING then  -- its grant was lost on the way
      report(id, R, syncs.describe_lease(id, R))
    end
    return
  end
  if not R then
    last_seq = last_seq + 1
    R = {s[2], s[3], s[4], owner, math.max(0, L.tick - s[5]), last_seq, SUSPENDED, -1, now, s[5], 'score', '', s[8]}
    add_facts(L, R, s[9], s[10], s[11])
    call('SADD', prefix .. 'own:' .. owner, id)
    charge(L, R)
  elseif R[STATE] == WAITING then
    charge(L, R)
    dequeue(L, id, R)
    R[STATE] = SUSPENDED
  end
  if state == SUSPENDED then
    write_ticket(id, R)
    suspend_ticket(id, 0, 0)
  else
    -- A lease that exists is counted, above the capacity if it must be.
    if R[STATE] == SUSPENDED then hold(L.pools, id, R) end
    write_ticket(id, R)
  end
end
-- {'sync', part, last, known epoch, answered number, statements, repeated, tickets, host, spent, learnt}. `repeated`:
-- operations that the process has sent and that were not answered. `spent`: {line, requests, tokens} that it granted by
-- itself, and that its bucket has not refilled; a sync whose answer was lost takes them once more, which delays grants.
-- `learnt`: {line, limit, refused level} of adaptive limits, as the process has heard of them last.
function syncs.synchronize(o, last_number)
  local own, unseen = prefix .. 'own:' .. owner, prefix .. 'unseen:' .. owner
  if o[2] == 1 then
    call('DEL', unseen)
    sharing.forget_reports(owner)
    if o[4] ~= '' and (o[4] ~= epoch or last_number < o[5]) then processes.record_loss() end
    call('HSET', HOSTS, owner, o[9])
    syncs.apply_statements(o[6])
    for _, it in ipairs(o[11]) do limits.restore(get_line(it[1]), it[2], tonumber(it[3])) end
    for _, repeated in ipairs(o[7]) do apply_operation(repeated) end
    if lost_until <= now then  -- else the buckets are empty
      for _, it in ipairs(o[10]) do take_rates(get_line(it[1]), it[2], it[3]) end
    end
    if call('EXISTS', own) == 1 then call('SUNIONSTORE', unseen, own) end
  end
  for _, ticket in ipairs(o[8]) do register_ticket(ticket) end
  if o[3] == 1 then
    for _, id in ipairs(call('SMEMBERS', unseen)) do end_ticket(id, 0, 0, 0) end
    call('DEL', unseen)
  end
end
end)
