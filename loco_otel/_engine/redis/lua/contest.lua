-- The lines that compete for the same resources, as _core/contest.py and _core/resources.py: the next grant goes to the line
-- whose oldest waiter has waited longest, of those that have room. A line whose guard fires reserves what it takes of the
-- rates, then a slot of each of its resources: in all of them or in none.
define_later(contest, function()
-- Returns the lines whose waiters compete for any of these resources, each once.
function contest.list_lines(pools)
  local found, is_found = {}, {}
  local function add(L)
    if not is_found[L] then found[#found + 1], is_found[L] = L, true end
  end
  for _, P in ipairs(pools) do
    add(P)
    for _, name in ipairs(P.contest and P.contest.lines or {}) do add(get_line(name)) end
  end
  return found
end
-- What a statement changes of the order.
function contest.save_order(L)
  call('HSET', prefix .. 'line:' .. L.name, 'policy', L.policy, 'alpha', fmt('%.17g', L.alpha), 'guard', int(L.guard),
       'shares', L.shares, 'stated_alpha', fmt('%.17g', L.stated_alpha), 'tuner', L.tuner, 'order', L.order)
end
-- A wide line that is new. Its order is that of its first resource.
function contest.join(W)
  local first = W.pools[1]
  W.policy, W.alpha, W.stated_alpha, W.guard, W.shares, W.order = first.policy, first.stated_alpha, first.stated_alpha,
    first.guard, first.shares, first.order
  W.tuner = first.tuner ~= '' and '0' or ''
  W.is_classed = classes.has_ceiling(W, 1)
  contest.save_order(W)
  for _, P in ipairs(W.pools) do
    P.contest = P.contest or {lines = {}}
    P.contest.lines[#P.contest.lines + 1] = W.name
    P.contest_changed, P.is_alone = true, false
  end
end
-- Returns whether a resource has a slot that is free and not reserved for another line.
function contest.has_slot(P, L)
  local slot = P.contest and P.contest.slot
  return P.used + ((slot and slot ~= L.name) and 1 or 0) < P.limit
end
function contest.has_room(L)
  for _, P in ipairs(L.pools) do if not contest.has_slot(P, L) then return false end end
  return true
end
-- Returns whether a grant depends on more than free slots.
function contest.is_gated(L)
  for _, P in ipairs(L.pools) do
    local A = read_auto(P)
    if P.rated or P.paused ~= 0 or (A and A.decreased_at > -math.huge) then return true end
  end
  return false
end
-- Returns whether at no resource of a line something is reserved for another one.
local function is_free(L, field)
  for _, P in ipairs(L.pools) do
    if P.contest[field] and P.contest[field] ~= L.name then return false end
  end
  return true
end
local function reserve_slots(L)
  if not is_free(L, 'slot') then return end
  for _, P in ipairs(L.pools) do P.contest.slot, P.contest_changed = L.name, true end
end
local function reserve_tokens(L, R)
  if not is_free(L, 'tokens_for') then return end
  for _, P in ipairs(L.pools) do
    P.contest.tokens_for, P.contest.tokens, P.contest_changed = L.name, R[TOKENS] or 0, true
  end
end
local function unreserve_slots(L)
  for _, P in ipairs(L.pools) do
    if P.contest.slot == L.name then P.contest.slot, P.contest_changed = nil, true end
  end
end
function contest.unreserve(L)
  unreserve_slots(L)
  for _, P in ipairs(L.pools) do
    if P.contest.tokens_for == L.name then
      P.contest.tokens_for, P.contest.tokens, P.contest_changed = nil, nil, true
    end
  end
end
local function reserve(L, R)
  local opened = true
  if contest.is_gated(L) then
    reserve_tokens(L, R)
    opened = is_open(L, R)
  end
  if not L.is_wide then return end
  -- Until rates and pauses allow the ticket the slots would stay free.
  if opened then reserve_slots(L) else unreserve_slots(L) end
end
-- Returns the oldest waiter of a line of any class: {birth, seq, id, since}; nil if none waits.
local function find_oldest(L)
  if L.waiting == 0 or L.oldest then return L.oldest end
  for _, V in ipairs(levels.list(L)) do
    local r = call('ZRANGE', V.ages, 0, 0, 'WITHSCORES')
    if #r > 0 then
      local first = {birth = tonumber(r[2]), seq = tonumber(string.sub(r[1], 1, 15)), id = string.sub(r[1], 16)}
      local best = L.oldest
      if not best or first.birth < best.birth or (first.birth == best.birth and first.seq < best.seq) then
        L.oldest = first
      end
    end
  end
  L.oldest.since = read_ticket(L.oldest.id)[SINCE]
  return L.oldest
end
-- A turn: the waiter of a line that is next, and what is known of the reason, see levels.lua.
local function select_turn(L)
  local V = L
  if L.is_classed then V = classes.pick(L) end
  if not V then return nil end
  local turn = {line = L, oldest = find_oldest(L)}
  turn.id, turn.reason, turn.score, turn.head = levels.select_next(L, V)
  return turn
end
local function precedes(a, b)
  if a.oldest.since ~= b.oldest.since then return a.oldest.since < b.oldest.since end
  return a.oldest.seq < b.oldest.seq
end
-- Returns the turns of the lines whose guard fires, in order; reservations of the others end.
local function list_overdue(pools)
  local overdue = {}
  for _, L in ipairs(contest.list_lines(pools)) do
    local oldest = find_oldest(L)
    if oldest then
      local turn = L.guard > 0 and L.tick - oldest.birth >= L.guard and select_turn(L)
      if turn then overdue[#overdue + 1] = turn else contest.unreserve(L) end
    end
  end
  table.sort(overdue, precedes)
  return overdue
end
local function is_ready(turn)
  local opened, gate = is_open(turn.line, read_ticket(turn.id))
  turn.line.gate = gate or ''
  return opened
end
-- Returns the turn of the next grant of one of these resources; nil if no waiter has room, or rates and pauses delay all.
local function select_grant(pools, overdue)
  local is_overdue, open, ranked = {}, {}, {}
  for _, turn in ipairs(overdue) do
    is_overdue[turn.line] = true
    reserve(turn.line, read_ticket(turn.id))
  end
  for _, turn in ipairs(overdue) do
    if contest.has_room(turn.line) and is_ready(turn) then
      turn.reason = 'guard'
      return turn
    end
  end
  for _, P in ipairs(pools) do if P.used < P.limit then open[#open + 1] = P end end
  for _, L in ipairs(contest.list_lines(open)) do
    if find_oldest(L) then ranked[#ranked + 1] = {line = L, oldest = find_oldest(L)} end
  end
  table.sort(ranked, precedes)
  for _, rank in ipairs(ranked) do
    if not is_overdue[rank.line] and contest.has_room(rank.line) then
      local turn = select_turn(rank.line)
      if turn and is_ready(turn) then return turn end
    end
  end
end
function contest.fill(pools)
  local overdue = list_overdue(pools)
  while true do
    local turn = select_grant(pools, overdue)
    if not turn then return end
    local L, id, R = turn.line, turn.id, read_ticket(turn.id)
    if not reject_overdue(L, id, R) then
      grant(L, id, R, turn.reason, turn.score or compute_score(L, R), turn.head or find_head(L.waiters, R[AGENT]))
    end
    -- Where no guard fired, none fires now, as no slot has become free.
    if #overdue > 0 then overdue = list_overdue(pools) end
  end
end
end)
