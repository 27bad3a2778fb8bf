-- The limit that adapts to the provider's refusals, as _core/adaptive_limit.py, and the pauses that the provider asks for.
-- Time is in seconds. `auto` of a line has these fields; a line with a fixed capacity has none, and is never paused.
local function read_auto(L)
  if not L.auto and L.auto_text ~= '' then limits.parse(L) end
  return L.auto
end
define_later(limits, function()
local AUTO_FIELDS = {'limit', 'ceiling', 'refused', 'decreased_at', 'successes', 'required', 'not_before', 'probing'}
local MAX_BETWEEN_PROBES, PROBE_DELAY_FACTOR = 128, 20
function limits.parse(L)
  L.auto = {}
  local i = 0
  for number in string.gmatch(L.auto_text, '[^|]+') do
    i = i + 1
    L.auto[AUTO_FIELDS[i]] = tonumber(number)
  end
end
local function change_auto(L)
  L.limit, L.auto_changed = L.auto.limit, true
end
function limits.save(L)
  local numbers = {}
  for i, field in ipairs(AUTO_FIELDS) do numbers[i] = fmt('%.17g', L.auto and L.auto[field] or 0) end
  call('HSET', prefix .. 'line:' .. L.name, 'limit', int(L.limit), 'auto', L.auto and table.concat(numbers, '|') or '',
       'pause', fmt('%.17g|', L.paused) .. L.pause_header)
  L.auto_changed = false
end
local function increase_limit(L)
  local A = L.auto
  A.limit, A.successes = math.min(A.ceiling, A.limit + 1), 0
  change_auto(L)
end
-- Before the slot of the call is free.
function limits.record_success(L)
  local A = L.auto
  if L.used < A.limit or A.limit >= A.ceiling then return end
  A.successes, L.auto_changed = A.successes + 1, true
  if A.limit < A.refused - 1 then return increase_limit(L) end
  if A.probing == 1 or A.refused == math.huge then
    if A.successes < A.limit then return end
    A.refused, A.required, A.probing = math.huge, 0, 0
    return increase_limit(L)
  end
  if A.successes < math.max(A.required, A.limit) or seconds < A.not_before then return end
  A.probing = 1
  increase_limit(L)
end
local function record_refusal(L, granted_at, pause)
  local A = L.auto
  if granted_at < A.decreased_at then return end
  local level = math.floor(math.min(A.limit, math.max(1, L.used)))
  local wrong = A.probing == 1 or level >= A.refused
  A.required = wrong and math.min(MAX_BETWEEN_PROBES, 2 * math.max(A.required, level)) or level
  A.not_before = wrong and seconds + PROBE_DELAY_FACTOR * pause or seconds
  A.refused, A.limit, A.decreased_at, A.successes, A.probing = level, math.max(1, math.floor(level / 2)), seconds, 0, 0
  change_auto(L)
end
-- The provider has refused a call, or stated that the next one would be: it pauses the line for all processes.
function limits.throttle_ticket(id, pause, header, is_refused)
  local R = read_ticket(id)
  if not R or (R[STATE] ~= HELD and R[STATE] ~= SHARED) then return end
  for _, P in ipairs(get_line(R[LINE]).pools) do
    if read_auto(P) then
      local granted_at = call('ZSCORE', R[LENDER] ~= '' and R[LENDER][P.name] and P.shared or P.held, id) / 1000
      if is_refused then record_refusal(P, granted_at, pause) end
      if pause > 0 and seconds + pause > P.paused then
        P.paused, P.pause_header, P.auto_changed = seconds + pause, header, true
      end
    end
  end
end
-- A limit that adapts up to a ceiling; a negative capacity demands it.
function limits.set_capacity(L, capacity, ceiling)
  if capacity >= 0 then
    L.limit, L.auto, L.auto_text, L.paused, L.pause_header = capacity, nil, '', 0, ''
    L.auto_changed = true
    return
  end
  local A = read_auto(L)
  if not A then
    A = {limit = ceiling, ceiling = ceiling, refused = math.huge, decreased_at = -math.huge, successes = 0, required = 0,
         not_before = -math.huge, probing = 0}
    L.auto = A
  end
  if A.limit == A.ceiling and A.decreased_at == -math.huge then A.limit = ceiling end
  A.ceiling, A.limit = ceiling, math.min(A.limit, ceiling)
  change_auto(L)
end
-- What a process has learnt from a state that is lost.
function limits.restore(L, limit, refused)
  local A = read_auto(L)
  if not A or A.decreased_at > -math.huge then return end
  A.limit, A.refused, A.decreased_at = math.min(limit, A.ceiling), refused, seconds
  change_auto(L)
end
end)
