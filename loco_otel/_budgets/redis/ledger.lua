-- One atomic step of the ledger: operations of one process. Nothing that is spent has an expiry.
-- KEYS[1]: the prefix of all keys, with a hash tag, so that all are in one slot of a cluster.
-- ARGV: owner, session, lease time in seconds, the process's estimate of the server's time, operations as JSON.
-- The reply is JSON: {status, now, a result for each operation}. `sync`: nothing was done, as this step is not the successor
-- of what the server knows of this process. `stale`: nothing was done, as a period that was sent is not the current one.
-- The rules are those of account.py and accounts.py; tests/budgets/test_ledger_contract.py runs over both.
local base, owner = KEYS[1] .. ':', ARGV[1]
local session, ttl, basis = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local operations = cjson.decode(ARGV[5])
local call, fmt = redis.call, string.format
local time = call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local ACCOUNTS, ENDS, HOLDS = base .. 'accounts', base .. 'ends', base .. 'holds:'
local PROCESSES, SESSIONS, SEEN, CONFIG = base .. 'processes', base .. 'sessions', base .. 'seen', base .. 'config'
local DAYS, SPEND, RUN_DAYS, RUN_SPEND = base .. 'days', base .. 'spend:', base .. 'run_days', base .. 'run_spend:'
local BURIED_PER_STEP, FORGOTTEN_PER_STEP, SESSION_SECONDS, MAX_ROWS, CLOCK_TOLERANCE, MAX_LAG = 200, 10, 86400, 10000, 1, 60

-- `tostring` would write large amounts as 1e+14.
local function int(x) return fmt('%.0f', x) end
local function exact(x) return fmt('%.6f', x) end
local now_text = exact(now)

-- An account's record is text: spent, reported, resets, since, limit, action, reserved, named.
local RECORD = '^(.-)|(.-)|(.-)|(.-)|(.-)|(.-)|(.-)|(.-)$'
local loaded, changed = {}, {}
local function load_account(name)
  local A = loaded[name]
  if A then return A end
  local record = call('HGET', ACCOUNTS, name)
  A = {name = name, exists = record and true, spent = 0, reported = 0, resets = '', since = '', limit = 0, action = '',
       reserved = 0, named = 0}
  if record then
    local spent, reported, resets, since, limit, action, reserved, named = string.match(record, RECORD)
    A.spent, A.reported, A.resets, A.since = tonumber(spent), tonumber(reported), resets, since
    A.limit, A.action, A.reserved, A.named = tonumber(limit), action, tonumber(reserved), tonumber(named)
  end
  loaded[name] = A
  return A
end
local function save_account(A)
  call('HSET', ACCOUNTS, A.name, table.concat({int(A.spent), int(A.reported), A.resets, A.since, int(A.limit), A.action,
                                               int(A.reserved), int(A.named)}, '|'))
  -- The sums of a default budget are removed once its period has passed: its names are without bound.
  if A.named == 0 and A.resets ~= '' then call('ZADD', ENDS, A.resets, A.name) else call('ZREM', ENDS, A.name) end
end
local function clear_spending(A) A.spent, A.reported, A.since = 0, 0, '' end
local function state_limit(A, limit, action, named)
  -- A threshold that the new limit has not reached yet can be reported again.
  if A.exists and limit > 0 and A.limit ~= limit then A.reported = math.min(A.reported, math.floor(A.spent * 100 / limit)) end
  A.limit, A.action, A.named = limit, action, named
end

-- An account of an operation: {name, amount, limit, action, named, resets, idle, thresholds}. `resets` is the end of the
-- current period or ''; `idle` is, of a run in total, after how many seconds of silence it is forgotten, else 0.
local NAME, AMOUNT, LIMIT, ACTION, NAMED, RESETS, IDLE, THRESHOLDS = 1, 2, 3, 4, 5, 6, 7, 8
local function open_account(a)
  local A = load_account(a[NAME])
  local is_run = a[IDLE] > 0
  if A.resets ~= '' and now >= tonumber(A.resets) and not (is_run and A.reserved > 0) then
    clear_spending(A)
  end
  if is_run then A.resets = exact(now + a[IDLE]) elseif A.since == '' then A.resets = a[RESETS] end
  state_limit(A, a[LIMIT], a[ACTION], a[NAMED])
  return A
end
local function is_exceeded(A, a, reserved) return a[LIMIT] == 0 or A.spent + reserved + a[AMOUNT] > a[LIMIT] end
-- Amounts as text: JSON would write large ones as 1e+14.
local function describe(index, A) return {index, int(A.spent), int(A.reserved), A.resets, A.since} end

local function release_hold(process, id)
  local hold = call('HGET', HOLDS .. process, id)
  if not hold then return end
  call('HDEL', HOLDS .. process, id)
  for _, part in ipairs(cjson.decode(hold)) do
    local A = load_account(part[1])
    if A.exists then  -- else it had reserved 0, and was forgotten
      A.reserved = math.max(0, A.reserved - tonumber(part[2]))
      changed[A.name] = A
    end
  end
end
local function add_hold(id, accounts)
  local hold = {}
  for i, a in ipairs(accounts) do
    local A = loaded[a[NAME]]
    A.reserved = A.reserved + a[AMOUNT]
    changed[A.name] = A
    hold[i] = {A.name, int(a[AMOUNT])}
  end
  call('HSET', HOLDS .. owner, id, cjson.encode(hold))
end

-- Returns whether all accounts admit a call, and those without room for it, with their amounts before it.
local function decide(accounts, passing, with_reserved)
  local result, passes = {1}, {}
  for _, action in ipairs(passing) do passes[action] = true end
  for i, a in ipairs(accounts) do
    local A = open_account(a)
    if is_exceeded(A, a, with_reserved and A.reserved or 0) then
      result[#result + 1] = describe(i - 1, A)
      if not passes[a[ACTION]] then result[1] = 0 end
    end
  end
  if result[1] == 0 then  -- a run that is refused isn't silent
    for _, a in ipairs(accounts) do
      local A = loaded[a[NAME]]
      if a[IDLE] > 0 and A.exists then changed[A.name] = A end
    end
  end
  return result
end
local function reserve(id, accounts, passing)
  if call('HEXISTS', HOLDS .. owner, id) == 1 then return {1} end
  local result = decide(accounts, passing, true)
  if result[1] == 1 then add_hold(id, accounts) end
  return result
end
-- Whether the shared engine, with this prefix of its keys, has granted a ticket: its record has the state HELD or SHARED,
-- see state.lua there. The prefix has the engine's schema, so that of another one is not found.
local ENGINE_STATE, ENGINE_HELD, ENGINE_SHARED = 7, 1, 3
local function is_granted(engine, id)
  local epoch = call('HGET', engine .. ':config', 'epoch')
  local record = epoch and call('HGET', engine .. ':' .. epoch .. ':tickets', id)
  local state = record and cjson.decode(record)[ENGINE_STATE]
  return state == ENGINE_HELD or state == ENGINE_SHARED
end
-- Reserves for a call whose slot is granted, if all accounts have room; else only checks it, as one that waits. Returns
-- whether it has reserved, and what was decided.
local function enter(id, accounts, passing, engine)
  if is_granted(engine, id) then
    local result = reserve(id, accounts, passing)
    if result[1] == 1 then return {1, result} end
  end
  return {0, decide(accounts, passing, false)}
end
local function restore_hold(id, accounts)  -- the call was admitted before the server lost its reservation
  if call('HEXISTS', HOLDS .. owner, id) == 1 then return end
  for _, a in ipairs(accounts) do open_account(a) end
  add_hold(id, accounts)
end

local function add_sums(key, names, sums)
  local name = names[1]
  local stored = call('HGET', key, name)
  if not stored then
    local rows = call('HLEN', key)
    if rows >= MAX_ROWS then
      name = names[rows >= 2 * MAX_ROWS and 3 or 2]
      stored = call('HGET', key, name)
    end
  end
  local total, i = {}, 0
  for amount in string.gmatch(stored or '0|0|0|0|0|0|0', '%d+') do
    i = i + 1
    total[i] = int(tonumber(amount) + sums[i])
  end
  call('HSET', key, name, table.concat(total, '|'))
end
-- `rows`: {day, names, names by run or {}, sums, the oldest day whose runs are kept}.
local function add_rows(rows)
  call('SADD', DAYS, rows[1])
  add_sums(SPEND .. rows[1], rows[2], rows[4])
  if #rows[3] == 0 then return end
  if call('SADD', RUN_DAYS, rows[1]) == 1 then
    for _, day in ipairs(call('SMEMBERS', RUN_DAYS)) do
      if day < rows[5] then
        call('UNLINK', RUN_SPEND .. day)
        call('SREM', RUN_DAYS, day)
      end
    end
  end
  add_sums(RUN_SPEND .. rows[1], rows[3], rows[4])
end

local function spend(A, amount)
  A.spent = A.spent + amount
  if A.since == '' then A.since = now_text end
  changed[A.name] = A
end
local function settle(id, accounts, rows)
  -- Opened before the reservation ends, which keeps a run with a long call from being silent.
  for _, a in ipairs(accounts) do open_account(a) end
  release_hold(owner, id)
  add_rows(rows)
  local result = {}
  for i, a in ipairs(accounts) do
    local A, reached = loaded[a[NAME]], {}
    spend(A, a[AMOUNT])
    local reported = A.reported
    for _, percent in ipairs(a[LIMIT] > 0 and a[THRESHOLDS] or {}) do
      if percent > reported and A.spent * 100 >= percent * a[LIMIT] then
        reached[#reached + 1] = percent
        A.reported = math.max(A.reported, percent)
      end
    end
    result[i] = describe(i - 1, A)
    result[i][6] = reached
  end
  return result
end
local function cancel(id, calls)  -- `calls`: accounts that count calls, where the call was sent
  for _, a in ipairs(calls) do open_account(a) end
  release_hold(owner, id)
  for _, a in ipairs(calls) do spend(loaded[a[NAME]], a[AMOUNT]) end
end
local function state_budgets(accounts)
  for _, a in ipairs(accounts) do
    local A = load_account(a[1])
    state_limit(A, a[2], a[3], 1)
    changed[A.name] = A
  end
end

-- Reservations belong to processes: each step of a process renews all that it has. Whoever is silent for its lease time
-- loses them, at most BURIED_PER_STEP in a step. Where no process came for half a lease time, the server stood still or
-- was away, and each has half a lease time to come back, once: where all processes are short, each gap would grant it.
local function bury_expired(last_step, grace)
  local latest = now
  if last_step > 0 and now - last_step > ttl / 2 then
    latest = grace <= now and grace or 0
    call('HSET', CONFIG, 'grace', exact(math.max(grace, now + ttl / 2)))
  elseif now < grace then return end
  for _, dead in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', exact(latest), 'LIMIT', 0, 2)) do
    if dead ~= owner then
      local ids = call('HRANDFIELD', HOLDS .. dead, BURIED_PER_STEP)
      if #ids > 0 then  -- it registers again what it still has, should it return
        local last = string.match(call('HGET', SESSIONS, dead) or '', ':(%d+)$') or '0'
        call('HSET', SESSIONS, dead, 'none:' .. last)
      end
      for _, id in ipairs(ids) do release_hold(dead, id) end
      if #ids < BURIED_PER_STEP then call('ZREM', PROCESSES, dead) end
      return
    end
  end
end
local function forget_ended()
  for _, name in ipairs(call('ZRANGEBYSCORE', ENDS, '-inf', now_text, 'LIMIT', 0, FORGOTTEN_PER_STEP)) do
    local A = load_account(name)
    if A.reserved > 0 then
      call('ZADD', ENDS, exact(now + 60), name)
    else
      call('HDEL', ACCOUNTS, name)
      call('ZREM', ENDS, name)
      loaded[name], changed[name] = nil, nil
    end
  end
  for _, gone in ipairs(call('ZRANGEBYSCORE', SEEN, '-inf', exact(now - SESSION_SECONDS), 'LIMIT', 0, 2)) do
    if gone ~= owner then  -- it has returned
      call('HDEL', SESSIONS, gone)
      call('ZREM', SEEN, gone)
    end
  end
end
local function leave()
  for _, id in ipairs(call('HKEYS', HOLDS .. owner)) do release_hold(owner, id) end
  call('ZREM', PROCESSES, owner)
end

-- What is spent is numbered by its process: a charge that the server lost, or that came twice, leaves a gap.
local stored_session = call('HGET', SESSIONS, owner) or ''
local known, last = string.match(stored_session, '^(.*):(%d+)$')
last = tonumber(last or '0')
local function refuse(status) return cjson.encode({status, now_text}) end
local is_sync = operations[1][1] == 'sync'
if is_sync then session = time[1] .. '.' .. time[2] elseif session ~= known then return refuse('sync') end
local NUMBERED = {settle = true, cancel = true}
local ACCOUNTS_AT = {reserve = 3, enter = 3, restore = 3, check = 2, settle = 4, cancel = 4}
local expected = last
for _, o in ipairs(operations) do
  if NUMBERED[o[1]] and o[2] > 0 then
    expected = expected + 1
    if o[2] ~= expected then return refuse('sync') end
  end
  local accounts = ACCOUNTS_AT[o[1]] and o[ACCOUNTS_AT[o[1]]]
  if o[1] == 'settle' and now - basis > MAX_LAG then return refuse('stale') end  -- for the day of its sums
  for _, a in ipairs(accounts or {}) do
    if a[RESETS] ~= '' and (now >= tonumber(a[RESETS]) or basis > now + CLOCK_TOLERANCE) then return refuse('stale') end
  end
end

local stored = call('HMGET', CONFIG, 'seen', 'grace')
call('HSET', CONFIG, 'seen', now_text)
bury_expired(tonumber(stored[1] or '0'), tonumber(stored[2] or '0'))
forget_ended()
call('ZADD', PROCESSES, exact(now + ttl), owner)
call('ZADD', SEEN, now_text, owner)

local results = {'ok', now_text}
local function apply(o)
  local kind = o[1]
  if kind == 'reserve' then return reserve(o[2], o[3], o[4])
  elseif kind == 'enter' then return enter(o[2], o[3], o[4], o[5])
  elseif kind == 'check' then return decide(o[2], o[3], false)
  elseif kind == 'settle' then return settle(o[3], o[4], o[5])
  elseif kind == 'cancel' then cancel(o[3], o[4])
  elseif kind == 'sync' then return {session, last, call('HKEYS', HOLDS .. owner)}
  elseif kind == 'restore' then restore_hold(o[2], o[3])
  elseif kind == 'drop' then for _, id in ipairs(o[2]) do release_hold(owner, id) end
  elseif kind == 'state' then state_budgets(o[2])
  elseif kind == 'reset' then
    local A = load_account(o[2])
    if A.exists then clear_spending(A) changed[A.name] = A end
  elseif kind == 'leave' then leave()
  end
  return {}
end
for _, o in ipairs(operations) do
  results[#results + 1] = apply(o)
  for _, A in pairs(changed) do
    save_account(A)
    A.exists = true
  end
  changed = {}
end
local new_session = session .. ':' .. int(expected)
if new_session ~= stored_session then call('HSET', SESSIONS, owner, new_session) end
return cjson.encode(results)
