-- Holders that wait for each other. A process reports for a line how many leases it has that are all blocked or idle,
-- and the waiter that would free one of them. Once that holds for all leases of the line, the best placed of those
-- waiters shares a slot. It is a lease that is not blocked, so no other waiter follows before the next report.
local function report_blocked(name, count, id, lender)
  local L = get_line(name)
  if count == 0 then call('HDEL', L.blocked, owner)
  else call('HSET', L.blocked, owner, int(count) .. '|' .. id .. '|' .. lender) end
end
local function precedes(a, b)
  for k = 1, 3 do if a[k] ~= b[k] then return a[k] < b[k] end end
  return false
end
local function share_slots(L)
  if learning or L.waiting == 0 then return end
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
