local NUMBER_KEPT_MS = 3600000
-- The batch: its number shows whether it is new, was applied already, or follows one that was lost. A process that has
-- lost tickets must register them again.
local first = operations[1] and operations[1][1]
if first == 'reset' then  -- an earlier script failed half way: nothing of the state can be trusted
  make_epoch()
  table.remove(operations, 1)
  first = operations[1] and operations[1][1]
  learning_until = 0
end
local known = call('ZSCORE', PROCESSES, owner)
local last_number = tonumber(string.match(call('GET', number_key(owner)) or '-1', '^%-?%d+'))
local status = 'ok'
if first ~= 'sync' then
  if not known or known == BURIED or number > last_number + 1 then status = 'sync'
  elseif number <= last_number then status = 'again' end
elseif number <= last_number then status = 'again' end

-- No process came for half a lease time, so the server stood still, or all did: each must have time to renew.
local others = call('ZCARD', PROCESSES) - (known and 1 or 0)
if seen > 0 and others > 0 and now - seen > ttl / 2 then processes.start_learning() end
-- The two that are silent longest.
local silent = call('ZRANGE', PROCESSES, 0, 1, 'WITHSCORES')
if not learning and #silent > 0 and tonumber(silent[2]) < now then processes.bury_expired() end

if status == 'ok' then
  call('ZADD', PROCESSES, now + ttl, owner)
  call('SET', number_key(owner), int(number) .. ':' .. generation, 'PX', NUMBER_KEPT_MS)
  for _, o in ipairs(operations) do
    local kind = o[1]
    if kind == 'state' then syncs.apply_statements(o[2])
    elseif kind == 'sync' then syncs.synchronize(o, last_number)
    elseif kind == 'beat' then
      local names, named = o[2], {}
      for i, name in ipairs(names) do named[2 * i - 1], named[2 * i] = now, name end
      for i = 1, #named, MAX_FIELDS do
        call('ZADD', LINES, unpack(named, i, math.min(i + MAX_FIELDS - 1, #named)))
      end
      table.sort(names)
      for _, name in ipairs(names) do
        local L = get_line(name)
        if L.stated == 0 then status = 'sync' end  -- it was removed, as the clock has jumped
        fill(L)
      end
    elseif kind == 'leave' then processes.leave()
    else apply_operation(o) end
  end
elseif status == 'again' then
  for _, id in ipairs(call('SMEMBERS', prefix .. 'own:' .. owner)) do
    local R = read_ticket(id)
    if R and (R[STATE] == HELD or R[STATE] == SHARED) then
      granted[#granted + 1] = syncs.describe_lease(id, R)
    end
  end
end
