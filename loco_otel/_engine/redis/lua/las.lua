-- Policy `las`, as _core/policies/las.py: the same operations on the same doubles, with the server's time in seconds.
-- `agents` holds attained|open calls|position of each account, `tags` the queues that compete by attained service: equal
-- ones are in the order of their members, which begin with the position of the head. `idle` holds the accounts without
-- waiters and open calls by the time since which they are silent.
las.is_metered, las.is_dated = true, true
define_later(las, function()
local MAX_IDLE_ACCOUNTS, MAX_EXPONENT = 10000, 512
local function read_service(P, key)
  local A = P.accounts[key]
  if A then return A end
  local s = call('HGET', P.agents, key)
  if not s then return {attained = 0, open = 0, position = ''} end
  local attained, open, place = string.match(s, '^([^|]+)|(%d+)|(%d*)$')
  A = {attained = tonumber(attained), open = tonumber(open), position = place}
  P.accounts[key] = A
  return A
end
local function write_service(P, key, A)
  P.accounts[key], P.changed[key] = A, true
  if A.position ~= '' then call('ZADD', P.tags, fmt('%.17g', A.attained), A.position .. key) end
end
function las.format(A) return fmt('%.17g|%.0f|', A.attained, A.open) .. A.position end
local function mark_idle(P, key, A)
  if A.position == '' and A.open == 0 then call('ZADD', P.idle, fmt('%.17g', P.last), key) end
end
local function compute_factor(P, at) return 2 ^ ((at - P.origin) / P.half_life) end
-- As `//` of Python, without the error of a quotient that is rounded up.
local function divide(x, y)
  local quotient = (x - math.fmod(x, y)) / y
  local whole = math.floor(quotient)
  return quotient - whole > 0.5 and whole + 1 or whole
end
-- Removes accounts that have been silent for long, and keeps the numbers small.
function las.remove_silent(P)
  while true do
    local r = call('ZRANGE', P.idle, 0, 0, 'WITHSCORES')
    local is_kept = #r == 0 or seconds - tonumber(r[2]) < P.idle_timeout
    if is_kept and call('ZCARD', P.idle) <= MAX_IDLE_ACCOUNTS then break end
    call('ZREM', P.idle, r[1])
    remove_account(P, r[1])
  end
  local steps = divide(seconds - P.origin, MAX_EXPONENT * P.half_life)
  if steps <= 0 then return end
  P.origin = P.origin + steps * MAX_EXPONENT * P.half_life
  P.last = math.max(P.last, P.origin)
  save_accounts(P, las.format)
  for _, key in ipairs(call('HKEYS', P.agents)) do
    local A = read_service(P, key)
    A.attained = A.attained * 2 ^ (-MAX_EXPONENT * steps)
    write_service(P, key, A)
  end
end
local function add_service(P, A, agent, weight, at)
  A.attained = A.attained + weight * 1000 / fair.find_share(P, agent) * compute_factor(P, at)
end
function las.update(P, key, _, head)
  local A = read_service(P, key)
  local place = head and fair.position(head) or ''
  if A.position == place then return end
  if A.position ~= '' then call('ZREM', P.tags, A.position .. key) end
  A.position = place
  if head then call('ZREM', P.idle, key) else mark_idle(P, key, A) end
  write_service(P, key, A)
end
function las.pick(P)
  local r = call('ZRANGE', P.tags, 0, 0, 'WITHSCORES')
  return string.sub(r[1], 31), -tonumber(r[2]) / (compute_factor(P, P.last) * 1000)
end
function las.score(P, key) return -read_service(P, key).attained / (compute_factor(P, P.last) * 1000) end
function las.charge(P, key, agent, weight)
  P.last = seconds
  las.remove_silent(P)
  local A = read_service(P, key)
  call('ZREM', P.idle, key)
  A.open = A.open + 1
  add_service(P, A, agent, weight, seconds)
  write_service(P, key, A)
end
function las.settle(P, key, agent, delta, charged_at)
  P.last = seconds
  las.remove_silent(P)
  local A = read_service(P, key)
  if A.open == 0 then return end
  A.open = A.open - 1
  if delta ~= 0 then add_service(P, A, agent, delta, charged_at) end
  write_service(P, key, A)
  mark_idle(P, key, A)
end
function las.clear(P)
  call('DEL', P.agents, P.tags, P.idle)
  P.accounts, P.changed = {}, {}
  P.origin, P.last = 0, 0
end
end)
