-- Leases belong to processes: each step of a process renews all that it has. A process that is silent for its lease
-- time loses its tickets. PROCESSES has the end of its lease time, and once it has lost the first of them BURIED. After a
-- loss of state nothing is granted and no process is buried until each had time to register its leases again.
local has_roster_changed, is_deleted = false, false
local function number_key(process) return prefix .. 'number:' .. process end
local BURIED = '-1'  -- a time that has passed; 0 would be no expiry in a reply
define_later(processes, function()
local BURIED_PER_STEP = 200
local LINES_REMOVED_PER_STEP, LINE_KEPT_MS = 100, 3600000
function processes.start_learning()
  if learning then return end  -- the first to come has started it; the others must not prolong it
  learning = true
  learning_until = now + math.floor(ttl / 2)
  call('HSET', config, 'learning', int(learning_until))
end
-- What was granted is forgotten with the state, so nothing of the last minute may be granted again.
function processes.record_loss()
  processes.start_learning()
  if lost_until > now then return end
  lost_until = now + math.floor(ttl / 2)
  call('HSET', config, 'lost', int(lost_until))
  for _, name in ipairs(call('ZRANGE', LINES, 0, -1)) do rates.empty(get_line(name)) end
end
local function forget_process(process)
  call('DEL', prefix .. 'own:' .. process, prefix .. 'unseen:' .. process)
  call('ZREM', PROCESSES, process)
  has_roster_changed = true
  call('HDEL', HOSTS, process)
  sharing.forget_reports(process)
end
-- Ends the tickets of a process, at most BURIED_PER_STEP in a step; its number stays, so that its return is no loss.
local function bury_process(process)
  for _, id in ipairs(call('SRANDMEMBER', prefix .. 'own:' .. process, BURIED_PER_STEP)) do
    call('SREM', prefix .. 'own:' .. process, id)
    end_ticket(id, 0, 0, 0)
  end
  if call('SCARD', prefix .. 'own:' .. process) == 0 then forget_process(process)
  else call('ZADD', PROCESSES, BURIED, process) end
end
function processes.bury_expired()
  for _, dead in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', now - 1, 'LIMIT', 0, 1)) do
    if dead ~= owner then bury_process(dead) end
  end
end
local function remove_line(L)
  for _, V in ipairs(levels.list(L)) do tenants.clear_scopes(V) end
  classes.clear(L)
  call('DEL', prefix .. 'line:' .. L.name)
end
-- LINES has when a process has named each line last, in a statement or a beat. Removes those that none has named for long,
-- with what was learnt of their limits.
function processes.remove_unused_lines()
  if learning then return end
  local names = call('ZRANGEBYSCORE', LINES, '-inf', now - LINE_KEPT_MS, 'LIMIT', 0, LINES_REMOVED_PER_STEP)
  for _, name in ipairs(names) do
    local is_loaded, L = lines[name], get_line(name)
    if is_loaded or L.contest or L.waiting + L.used + count_sharers(L) > 0 then call('ZADD', LINES, now, name)
    else
      rates.expire(L)
      remove_line(L)
      call('ZREM', LINES, name)
      lines[name] = nil
      table.remove(loaded)  -- it is the last one
    end
  end
end
function processes.leave()
  while call('ZSCORE', PROCESSES, owner) do bury_process(owner) end
  call('DEL', number_key(owner))
  if call('ZCARD', PROCESSES) == 0 then
    -- The last one deletes the state; what is stated is stated again by the next.
    local pools = {}
    for _, name in ipairs(call('ZRANGE', LINES, 0, -1)) do
      pools[#pools + 1] = get_line(name)
      rates.expire(pools[#pools])
    end
    for _, L in ipairs(contest.list_lines(pools)) do remove_line(L) end
    call('DEL', LINES, config)
    is_deleted = true
  end
end
end)
