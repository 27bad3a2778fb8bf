-- The reply: {now, status, epoch, granted, lines, due, expiry, processes}. `granted`: {id, reason, tick, ticks of this
-- wait, ticks of all its waits, score, weight and age of its queue}. `lines`: {name, limit, used, waiting, tick, stated,
-- policy, alpha, guard}. `due`: when to send the next beat, 0 for never. `expiry`: of the process that is silent longest.
local shown = {}
for _, L in ipairs(loaded) do
  if not L.gone then
    share_slots(L)
    save_line(L)
    shown[#shown + 1] = {L.name, L.limit, L.used, L.waiting, L.tick, L.stated, L.policy, fmt('%.17g', L.alpha), L.guard}
  end
end
for other, list in pairs(wakes) do
  -- With the generation of its last sync: what was decided before that is out of date.
  local g = string.match(call('GET', number_key(other)) or '', ':(.*)$') or '0'
  call('RPUSH', prefix .. 'wake:' .. other, g .. '|' .. cjson.encode(list))
  call('PEXPIRE', prefix .. 'wake:' .. other, ttl * 2)
end
local oldest = call('ZRANGE', PROCESSES, 0, 0, 'WITHSCORES')
return cjson.encode({now, status, epoch, granted, shown, learning and learning_until + 1 or 0,
                     tonumber(oldest[2] or '0'), call('ZCARD', PROCESSES)})
