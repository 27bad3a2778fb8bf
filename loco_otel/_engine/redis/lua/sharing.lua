-- Holders that wait for each other. A process reports for a line how many leases it has that are all blocked or idle,
-- and the waiter that would free one of them. Once that holds for all leases of the line, the best placed of those
-- waiters shares a slot. It is a lease that is not blocked, so no other waiter follows before the next report.
define_later(sharing, function()
function sharing.report_blocked(name, count, id, lender)
  local L = get_line(name)
  if count == 0 then call('HDEL', L.blocked, owner)
  else call('HSET', L.blocked, owner, int(count) .. '|' .. id .. '|' .. lender) end
end
local function precedes(a, b)
  for k = 1, 3 do if a[k] ~= b[k] then return a[k] < b[k] end end
  return false
end
function sharing.share_slots(L)
  if learning then return end
  local reports = call('HGETALL', L.blocked)
  if #reports == 0 then return end
  local total, best, rank, record, lender = 0, nil, nil, nil, nil
  for i = 1, #reports, 2 do
    local count, id, owning = string.match(reports[i + 1], '^(%d+)|([^|]*)|(.*)$')
    total = total + tonumber(count)
    local R = read_ticket(id)
    if R and R[STATE] == WAITING then
      local candidate = {-compute_score(L, R), R[BIRTH], R[SEQ]}
      if not rank or precedes(candidate, rank) then best, rank, record, lender = id, candidate, R, owning end
    end
  end
  if best and total == L.used + count_sharers(L) then
    local opened, gate = is_open(L, record)
    L.gate = gate or ''
    if opened then grant(L, best, record, 'reentrant', -rank[1], find_head(L.waiters, record[AGENT]), lender) end
  end
end
-- A class at its ceiling: a process reports how many leases of it cannot end before the waiter that it names. Once that
-- holds for all of the class, the first of those waiters is granted beyond the ceiling.
local function capped_key(L) return prefix .. 'capped:' .. L.name end
function sharing.report_capped(name, class, count, id)
  local L, field = get_line(name), int(class) .. '|' .. owner
  if count == 0 then call('HDEL', capped_key(L), field)
  else call('HSET', capped_key(L), field, int(count) .. '|' .. id) end
end
function sharing.exempt_waiter(L)
  if learning or L.waiting == 0 or L.used >= L.limit then return end
  local reports = call('HGETALL', capped_key(L))
  for class = 0, 2 do
    local total, waiter = 0, nil
    for i = 1, #reports, 2 do
      if string.sub(reports[i], 1, 2) == class .. '|' then
        local count, id = string.match(reports[i + 1], '^(%d+)|(.*)$')
        local R = read_ticket(id)
        total = total + tonumber(count)
        if R and R[STATE] == WAITING and not waiter then waiter = {id, R} end
      end
    end
    if waiter and classes.is_capped(L, class) and total >= classes.count_slots(L, class) then
      local id, R = waiter[1], waiter[2]
      if is_open(L, R) then grant(L, id, R, 'score', compute_score(L, R), find_head(L.waiters, R[AGENT])) end
      return
    end
  end
end
function sharing.forget_reports(process)
  for _, name in ipairs(call('SMEMBERS', LINES)) do
    call('HDEL', prefix .. 'blocked:' .. name, process)
    call('HDEL', prefix .. 'capped:' .. name, '0|' .. process, '1|' .. process, '2|' .. process)
  end
end
end)
