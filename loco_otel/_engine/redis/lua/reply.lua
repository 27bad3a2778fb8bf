-- The reply: {now, status, epoch, granted, lines, due, expiry, processes}. `granted`: {id, reason, tick, ticks of this
-- wait, ticks of all its waits, score, weight and age of its queue, lenders}. `lines`: {name, limit, used, waiting, tick,
-- stated, policy, alpha, guard, requests, tokens, gate, auto, pause, tuned, order}: of a rate its number and level, of a
-- closed gate its time (-1 if only the grant of another line opens it), its cause, whether this process comes at that time
-- and the resource, of an adaptive limit (-1 is unlimited) its ceiling, the level that was refused last and whether one ever
-- was, of a pause its end and the header that states it, of an alpha that adapts the one that was stated, and the order as
-- it is stated. `due`: when to send the next beat whatever the gates, 0 for never. `expiry`: of the process that is silent
-- longest.

define_later(shows, function()
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
function shows.rate(B) return {fmt('%.17g', B.rate), fmt('%.17g', rates.compute_level(B))} end
function shows.gate(L)
  local due, cause, resource = string.match(L.gate, '^(%w+)|(%w+)|(.*)$')
  if due == 'inf' then return {-1, cause, false, resource} end
  return {tonumber(due), cause, has_alarm(L, due), resource}
end
function shows.auto(A) return {fmt('%.17g', A.ceiling), fmt('%.17g', A.refused), A.decreased_at > -math.huge} end
end)
local shown, none = {}, {}
if is_deleted then loaded = {} end
for _, P in ipairs(loaded) do
  if P.contest or (P.is_alone and P.waiting > 0) then
    sharing.share_slots(P)
    if P.contest or P.is_classed then sharing.exempt_waiter(P) end
  end
end
for _, L in ipairs(loaded) do
  local auto, requests, tokens = read_auto(L), none, none
  if L.rated then
    local buckets = rates.read(L)
    requests, tokens = buckets.requests and shows.rate(buckets.requests), buckets.tokens and shows.rate(buckets.tokens)
  end
  shown[#shown + 1] = {L.name, L.limit == math.huge and -1 or L.limit, L.used, L.waiting, L.tick, L.stated, L.policy,
                       fmt('%.17g', L.alpha), L.guard, requests or none, tokens or none, L.gate ~= '' and shows.gate(L) or none,
                       auto and shows.auto(auto) or none,
                       L.paused > seconds and {math.floor(L.paused * 1000) + 1, L.pause_header} or none,
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
if not is_deleted then
  if last_seq == tonumber(stored[5]) then call('HSET', config, 'seen', int(now))
  else call('HSET', config, 'seen', int(now), 'seq', int(last_seq)) end
end
save_tickets()
for other, list in pairs(wakes) do
  -- To the list of its last sync: an older one may be read by a connection that is cut, and nobody reads the reply.
  local g = string.match(call('GET', number_key(other)) or '', ':(.*)$') or '0'
  local wake = prefix .. 'wake:' .. other .. ':' .. g
  call('RPUSH', wake, cjson.encode(list))
  call('PEXPIRE', wake, ttl * 2)
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
