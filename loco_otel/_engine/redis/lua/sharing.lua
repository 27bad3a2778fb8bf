-- Holders that wait for each other. A process reports for a line how many leases it has that are all blocked or idle,
-- and the waiter that would free one of them. Once that holds for all leases of the line, the best placed of those
-- waiters shares a slot. It is a lease that is not blocked, so no other waiter follows before the next report. A waiter
-- for several resources shares where no slot is free, once all leases of each of these are reported.
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
-- Returns the lenders of a waiter, of each of its resources without room; nil if a lease of one may end.
local function find_lenders(L, id)
  local lenders = {}
  for _, P in ipairs(L.pools) do
    if not contest.has_slot(P, L) then
      local total, reports = 0, call('HGETALL', P.blocked)
      for i = 1, #reports, 2 do
        local count, named, lender = string.match(reports[i + 1], '^(%d+)|([^|]*)|(.*)$')
        total = total + tonumber(count)
        if named == id then lenders[P.name] = lender end
      end
      if not lenders[P.name] or total ~= P.used + count_sharers(P) then return nil end
    end
  end
  return lenders
end
function sharing.share_slots(P)
  if learning then return end
  local reports = call('HGETALL', P.blocked)
  if #reports == 0 then return end
  local total, best, rank, line = 0, nil, nil, nil
  for i = 1, #reports, 2 do
    local count, id = string.match(reports[i + 1], '^(%d+)|([^|]*)|')
    total = total + tonumber(count)
    local R = read_ticket(id)
    if R and R[STATE] == WAITING then
      local L = get_line(R[LINE])
      local candidate = {-compute_score(L, R), R[BIRTH], R[SEQ]}
      if not rank or precedes(candidate, rank) then best, rank, line = id, candidate, L end
    end
  end
  if not best or total ~= P.used + count_sharers(P) then return end
  local lenders, R = find_lenders(line, best), read_ticket(best)
  if not lenders then return end
  local opened, gate = is_open(line, R)
  line.gate = gate or ''
  if opened then
    grant(line, best, R, 'reentrant', -rank[1], find_head(line.waiters, R[AGENT]), next(lenders) and lenders)
  end
end
-- Passes the slot of a lease that ends to the first one that shares it, and returns whether there is one.
function sharing.pass_slot(P, id)
  local heir
  for _, other in ipairs(call('ZRANGE', P.shared, 0, -1)) do
    local S = read_ticket(other)
    if S[LENDER] ~= '' and S[LENDER][P.name] == id then
      S[LENDER][P.name] = heir
      if not heir then
        heir = other
        P.sharers = P.sharers - call('ZREM', P.shared, other)
        hold({P}, other, S, next(S[LENDER]) and S[LENDER])
      end
      write_ticket(other, S)
    end
  end
  return heir
end
-- A class at its ceiling: a process reports how many leases of it cannot end before the waiter that it names. Once that
-- holds for all of the class, the first of those waiters is granted beyond the ceiling.
local function capped_key(L) return prefix .. 'capped:' .. L.name end
function sharing.report_capped(name, class, count, id)
  local L, field = get_line(name), int(class) .. '|' .. owner
  if count == 0 then call('HDEL', capped_key(L), field)
  else call('HSET', capped_key(L), field, int(count) .. '|' .. id) end
end
-- Returns the first waiter that is named for a class, if no lease of the class at this resource can end before.
local function find_stuck(P, class, reports)
  local total, waiter = 0, nil
  for i = 1, #reports, 2 do
    if string.sub(reports[i], 1, 2) == class .. '|' then
      local count, id = string.match(reports[i + 1], '^(%d+)|(.*)$')
      local R = read_ticket(id)
      total = total + tonumber(count)
      if not waiter and R and R[STATE] == WAITING then waiter = id end
    end
  end
  return total >= classes.count_slots(P, class) and waiter
end
function sharing.exempt_waiter(P)
  if learning or P.used >= P.limit then return end
  local reports = call('HGETALL', capped_key(P))
  for class = 0, #reports > 0 and 2 or -1 do
    local id = classes.is_pool_capped(P, class) and find_stuck(P, class, reports)
    if id then
      local R = read_ticket(id)
      local L, is_stuck = get_line(R[LINE]), true
      for _, other in ipairs(L.pools) do
        if other ~= P and classes.is_pool_capped(other, class) then
          is_stuck = is_stuck and find_stuck(other, class, call('HGETALL', capped_key(other)))
        end
      end
      if is_stuck and contest.has_room(L) and is_open(L, R) then
        grant(L, id, R, 'score', compute_score(L, R), find_head(L.waiters, R[AGENT]))
      end
      return
    end
  end
end
function sharing.forget_reports(process)
  for _, name in ipairs(call('ZRANGE', LINES, 0, -1)) do
    call('HDEL', prefix .. 'blocked:' .. name, process)
    call('HDEL', prefix .. 'capped:' .. name, '0|' .. process, '1|' .. process, '2|' .. process)
  end
end
end)
