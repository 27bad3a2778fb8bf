-- The reply: {now, status, epoch, granted, lines, due, expiry, processes}. `granted`: {id, reason, tick, ticks of this
-- wait, ticks of all its waits, score, weight and age of its queue}. `lines`: {name, limit, used, waiting, tick, stated,
-- policy, alpha, guard, requests, tokens, gate, auto, pause, tuned, order}: of a rate its number and level, of a closed gate its time, its
-- cause and whether this process comes at that time, of an adaptive limit (-1 is unlimited) its ceiling, the level that was
-- refused last and whether one ever was, of a pause its end and the header that states it, of an alpha that adapts the one
-- that was stated, and the order as it is stated. `due`: when to send the next beat whatever the gates, 0 for never. `expiry`: of
-- the process that is silent longest.

-- When a gate opens one process comes, so that not all do: the one that had waiters when the time was first known. The
-- others come a little later, in case it does not.
local ALARM_TOLERANCE_MS = 20
local function has_alarm(L, due)
  local at, holder = string.match(L.alarm, '^(%d+)|(.*)$')
  local is_set = at and math.abs(at - due) <= ALARM_TOLERANCE_MS and call('ZSCORE', PROCESSES, holder)
  if is_set and (holder ~= owner or has_waiters) then return holder == owner end
  L.alarm = has_waiters and due .. '|' .. owner or ''
  return has_waiters
end
local function show_rate(B) return B and {fmt('%.17g', B.rate), fmt('%.17g', rates.compute_level(B))} or {} end
local function show_gate(L)
  local due, cause = string.match(L.gate, '^(%d+)|(.*)$')
  return due and {tonumber(due), cause, has_alarm(L, due)} or {}
end
local function show_auto(A)
  return A and {fmt('%.17g', A.ceiling), fmt('%.17g', A.refused), A.decreased_at > -math.huge} or {}
end
local function show_pause(L)
  return L.paused > seconds and {math.floor(L.paused * 1000) + 1, L.pause_header} or {}
end
local shown = {}
for _, L in ipairs(loaded) do
  if not L.gone then
    if L.waiting > 0 then
      sharing.share_slots(L)
      if L.is_classed then sharing.exempt_waiter(L) end
    end
    local buckets = L.rated and rates.read(L) or {}
    shown[#shown + 1] = {L.name, L.limit == math.huge and -1 or L.limit, L.used, L.waiting, L.tick, L.stated, L.policy, fmt('%.17g', L.alpha), L.guard,
                         show_rate(buckets.requests), show_rate(buckets.tokens), show_gate(L), show_auto(read_auto(L)), show_pause(L),
                         L.tuner ~= '' and fmt('%.17g', L.stated_alpha) or '', L.order}
    if L.is_tenanted then tenants.save(L) end
    if L.is_classed then
      levels.save(L)
      classes.save(L)
    end
    save_line(L, policies[L.policy].format)
    if L.auto_changed then limits.save(L) end
    if L.spent then rates.save(L) end
  end
end
save_tickets()
for other, list in pairs(wakes) do
  -- With the generation of its last sync: what was decided before that is out of date.
  local g = string.match(call('GET', number_key(other)) or '', ':(.*)$') or '0'
  call('RPUSH', prefix .. 'wake:' .. other, g .. '|' .. cjson.encode(list))
  call('PEXPIRE', prefix .. 'wake:' .. other, ttl * 2)
end
-- Usually the processes are those of the start of the step, of which this one was renewed since.
local count, expiry = others + 1, silent[2]
if silent[1] == owner then expiry = silent[4] end
if known and status == 'ok' and not has_roster_changed then expiry = math.min(tonumber(expiry or now + ttl), now + ttl)
else
  expiry = tonumber(call('ZRANGE', PROCESSES, 0, 0, 'WITHSCORES')[2] or '0')
  count = call('ZCARD', PROCESSES)
end
return cjson.encode({now, status, epoch, granted, shown, learning and learning_until + 1 or 0, expiry, count})
end)()
