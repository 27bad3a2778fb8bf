-- One atomic step of the shared engine: a batch of operations of one process, then grants while there is room.
-- KEYS[1]: the prefix of all keys, with a hash tag, so that all are in one slot of a cluster.
-- ARGV: owner, batch number, generation, lease time in ms, operations as JSON, whether the process has waiters.
-- The reply is JSON, see reply.lua. The rules are those of loco_otel/_core; tests compare the two grant by grant.
local base, owner = KEYS[1] .. ':', ARGV[1]
local number, generation, ttl = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local operations, has_waiters = cjson.decode(ARGV[5]), ARGV[6] == '1'
local call, fmt = redis.call, string.format
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- `tostring` would write large numbers as 1e+14.
local function int(x) return fmt('%.0f', x) end

-- The state has an epoch, made with it, which is part of its keys: a new epoch starts from nothing.
local config = base .. 'config'
local stored = call('HMGET', config, 'epoch', 'learning', 'seen', 'lost')
local epoch = stored[1]
local learning_until, seen = tonumber(stored[2] or '0'), tonumber(stored[3] or '0')
local lost_until = tonumber(stored[4] or '0')  -- of processes that report the same loss, the first has reported it
local prefix, TICKETS, PROCESSES, LINES, HOSTS
local function set_epoch(value)
  epoch = value
  prefix = base .. epoch .. ':'
  TICKETS, PROCESSES, LINES, HOSTS = prefix .. 'tickets', prefix .. 'processes', prefix .. 'lines', prefix .. 'hosts'
end
local function make_epoch()
  set_epoch(time[1] .. '.' .. time[2])
  call('HSET', config, 'epoch', epoch)
end
if epoch then set_epoch(epoch) else make_epoch() end

-- Writes the fields of a hash at once; false removes one.
local MAX_FIELDS = 1000
local function write_fields(key, texts)
  local written, removed = {}, {}
  local function flush(least)
    if #written > least then call('HSET', key, unpack(written)) written = {} end
    if #removed > least then call('HDEL', key, unpack(removed)) removed = {} end
  end
  for field, text in pairs(texts) do
    if text then
      written[#written + 1] = field
      written[#written + 1] = text
    else removed[#removed + 1] = field end
    flush(MAX_FIELDS)
  end
  flush(0)
end

-- A scope: the queues that one policy orders, and what it stores of them. `virtual` and `open` are of `fair`, `origin`
-- and `last` of `las`.
local function make_scope(L, suffix, state)
  local virtual, open, origin, last = string.match(state or '0|0|0|0', '^([^|]+)|([^|]+)|([^|]+)|(.+)$')
  local name = L.key .. suffix
  return {line = L, accounts = {}, changed = {}, virtual = tonumber(virtual), open = tonumber(open), origin = tonumber(origin), last = tonumber(last),
          ages = prefix .. 'ages:' .. name, agents = prefix .. 'agents:' .. name, tops = prefix .. 'tops:' .. name,
          loads = prefix .. 'loads:' .. name, bucket = prefix .. 'bucket:' .. name .. ':', tags = prefix .. 'tags:' .. name,
          idle = prefix .. 'idle:' .. name}
end
-- Accounts of queues are read once in a step, and written at its end.
local function remove_account(P, key)
  P.accounts[key], P.changed[key] = nil, nil
  call('HDEL', P.agents, key)
end
local function save_accounts(P, format)
  local texts = {}
  for key in pairs(P.changed) do texts[key] = format(P.accounts[key]) end
  write_fields(P.agents, texts)
  P.changed = {}
end
local function format_state(P) return fmt('%.17g|%.17g|%.17g|%.17g', P.virtual, P.open, P.origin, P.last) end

-- A line: the waiters and leases of one resource.
local lines, loaded = {}, {}
local FIELDS = {'limit', 'policy', 'alpha', 'guard', 'shares', 'stated', 'version', 'tick', 'seq', 'waiting', 'order',
                'state', 'rated', 'gate', 'alarm', 'auto', 'pause', 'stated_alpha', 'tuner',
                'is_tenanted', 'is_classed', 'is_dated', 'order_version'}
local function get_line(name)
  local L = lines[name]
  if L then return L end
  local h = call('HMGET', prefix .. 'line:' .. name, unpack(FIELDS))
  local function num(i) return tonumber(h[i] or '0') end
  L = {name = name, key = name, suffix = '', limit = num(1), policy = h[2] or 'load', alpha = tonumber(h[3] or '0.25'), guard = num(4),
       shares = h[5] or '', stated = num(6), version = num(7), tick = num(8), seq = num(9), waiting = num(10),
       order = h[11] or '', rated = h[13] == '1', gate = h[14] or '', alarm = h[15] or '',
       auto_text = h[16] or '', paused = tonumber(string.match(h[17] or '', '^[^|]+') or '0'),
       pause_header = string.match(h[17] or '', '|(.*)$') or '', stated_alpha = tonumber(h[18] or '0.25'),
       tuner = h[19] or '', is_tenanted = h[20] == '1', scopes = {},
       is_classed = h[21] == '1', is_dated = h[22] == '1', order_version = num(23), levels = {},
       rates_key = base .. 'rates:' .. name,
       held = prefix .. 'held:' .. name, shared = prefix .. 'shared:' .. name, ages = prefix .. 'ages:' .. name,
       weights = prefix .. 'weights:' .. name, waiters = prefix .. 'waiters:' .. name .. ':',
       blocked = prefix .. 'blocked:' .. name}
  L.line = L  -- it is the level of the class `normal`, too
  L.scope = make_scope(L, '', h[12])
  -- The set of leases is the count: nothing else could stay right when an operation is repeated.
  L.used = call('ZCARD', L.held)
  lines[name] = L
  loaded[#loaded + 1] = L
  return L
end
local function save_line(L, format)
  if format then save_accounts(L.scope, format) end
  call('HSET', prefix .. 'line:' .. L.name, 'tick', int(L.tick), 'seq', int(L.seq), 'waiting', int(L.waiting),
       'state', format_state(L.scope), 'gate', L.gate, 'alarm', L.alarm, 'is_tenanted', L.is_tenanted and 1 or 0,
       'version', int(L.version), 'is_classed', L.is_classed and 1 or 0, 'is_dated', L.is_dated and 1 or 0,
       'order_version', int(L.order_version))
end

-- A ticket's record is a JSON array with these positions. That of most ends with TOKENS.
local LINE, AGENT, WEIGHT, OWNER, BIRTH, SEQ, STATE, CHARGED, SINCE, WAITED, REASON, LENDER, TOKENS, RUN, CHARGED_AT, CLASS, DUE,
  CLASS_CHARGED = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18
local WAITING, HELD, SUSPENDED, SHARED = 0, 1, 2, 3
-- Tickets are read once in a step, and written at its end; false is none.
local tickets, changed_tickets = {}, {}
local function read_ticket(id)
  local R = tickets[id]
  if R == nil then
    local s = call('HGET', TICKETS, id)
    R = s and cjson.decode(s)
    tickets[id] = R
  end
  return R
end
-- Returns a ticket's class: 0 interactive, 1 normal, 2 background.
local function find_class(R) return R[CLASS] or 1 end
local function write_ticket(id, R) tickets[id], changed_tickets[id] = R, true end
local function save_tickets()
  local texts = {}
  for id in pairs(changed_tickets) do texts[id] = tickets[id] and cjson.encode(tickets[id]) end
  write_fields(TICKETS, texts)
end
-- The oldest waiter of a queue: {birth, seq, id}.
local function find_head(waiters, key)
  local r = call('ZRANGE', waiters .. key, 0, 0, 'WITHSCORES')
  if #r == 0 then return nil end
  return {birth = tonumber(r[2]), seq = tonumber(string.sub(r[1], 1, 15)), id = string.sub(r[1], 16)}
end
-- Rates per minute, as _core/token_bucket.py: the same operations on the same numbers, with the server's time in
-- seconds. The buckets have a key of their own, outside the epoch: after the last process has left, what it spent counts
-- until the buckets are full again.
local seconds, read_rates, save_rates, compute_level, take_rates, is_open, set_rates, empty_buckets, expire_rates
do
local call, fmt, int = call, fmt, int
seconds = now / 1000
local NO_TIME = -math.huge
local function parse_bucket(text)
  local rate, level, at = string.match(text or '', '^([^|]+)|([^|]+)|(.+)$')
  return rate and {rate = tonumber(rate), level = tonumber(level), at = tonumber(at)}
end
function read_rates(L)
  if not L.rates then
    local stored = L.rated and call('HMGET', L.rates_key, 'requests', 'tokens') or {}
    L.rates = {requests = parse_bucket(stored[1]), tokens = parse_bucket(stored[2])}
  end
  return L.rates
end
local function write_bucket(L, kind)
  local B = L.rates[kind]
  if B then call('HSET', L.rates_key, kind, fmt('%.17g|%.17g|%.17g', B.rate, B.level, B.at))
  else call('HDEL', L.rates_key, kind) end
end
function save_rates(L)
  if L.spent then
    write_bucket(L, 'requests')
    write_bucket(L, 'tokens')
    L.spent = false
  end
end
function compute_level(B)
  return math.min(B.rate, B.level + math.max(0, seconds - B.at) * B.rate / 60)
end
local function compute_available_at(B, amount)
  if not B then return NO_TIME end
  local missing = math.min(amount, B.rate) - compute_level(B)
  return missing <= 0 and seconds or seconds + missing * 60 / B.rate
end
local function take_tokens(L, B, amount)
  if not B or amount == 0 then return end
  B.level, B.at = math.min(B.rate, compute_level(B) - amount), seconds
  L.spent = true
end
-- Negative amounts are returned.
function take_rates(L, requests, tokens)
  if not L.rated then return end
  local rates = read_rates(L)
  take_tokens(L, rates.requests, requests)
  take_tokens(L, rates.tokens, tokens)
end
-- Returns whether rates and the provider's pause allow a ticket; if not, also when they will, and which of them delays it.
function is_open(L, R)
  if not L.rated and L.paused == 0 then return true end
  local rates = read_rates(L)
  local requests_at = compute_available_at(rates.requests, 1)
  local tokens_at = compute_available_at(rates.tokens, R[TOKENS] or 0)
  local at, cause = math.max(requests_at, tokens_at), tokens_at >= requests_at and 'tokens' or 'requests'
  if L.paused >= at then at, cause = L.paused, 'backoff' end
  if at <= seconds then return true end
  return false, int(math.floor(at * 1000) + 1) .. '|' .. cause
end
-- 0 is no limit. A rate that stays keeps its bucket; another one starts with a full bucket, and after a loss, in which
-- nobody knows what was spent, with an empty one.
function set_rates(L, requests, tokens)
  save_rates(L)
  L.rated, L.rates = true, nil  -- a line that is new has no rates yet, but its bucket may be there
  local rates = read_rates(L)
  for kind, rate in pairs({requests = requests, tokens = tokens}) do
    local B = rates[kind]
    if rate == 0 then rates[kind] = nil
    elseif not B or B.rate ~= rate then
      rates[kind] = {rate = rate, level = lost_until > now and 0 or rate, at = seconds}
    end
  end
  L.rated, L.spent = requests > 0 or tokens > 0, true
  if not L.rated then L.gate = '' end
  save_rates(L)
  call('PERSIST', L.rates_key)
end
function empty_buckets(L)
  for _, B in pairs(read_rates(L)) do
    B.level, B.at = math.min(0, compute_level(B)), seconds
    L.spent = true
  end
end
-- Keeps the buckets until they would be full.
function expire_rates(L)
  save_rates(L)
  local longest = 0
  for _, B in pairs(read_rates(L)) do longest = math.max(longest, (B.rate - compute_level(B)) * 60000 / B.rate) end
  call('PEXPIRE', L.rates_key, int(math.ceil(longest)))
end
end
-- The limit that adapts to the provider's refusals, as _core/adaptive_limit.py, and the pauses that the provider asks for.
-- Time is in seconds. `auto` of a line has these fields; a line with a fixed capacity has none, and is never paused.
local read_auto, save_auto, record_success, throttle_ticket, set_capacity, restore_limit
do
local call, fmt, int = call, fmt, int
local AUTO_FIELDS = {'limit', 'ceiling', 'refused', 'decreased_at', 'successes', 'required', 'not_before', 'probing'}
local MAX_BETWEEN_PROBES, PROBE_DELAY_FACTOR = 128, 20
function read_auto(L)
  if not L.auto and L.auto_text ~= '' then
    L.auto = {}
    local i = 0
    for number in string.gmatch(L.auto_text, '[^|]+') do
      i = i + 1
      L.auto[AUTO_FIELDS[i]] = tonumber(number)
    end
  end
  return L.auto
end
local function change_auto(L)
  L.limit, L.auto_changed = L.auto.limit, true
end
function save_auto(L)
  if not L.auto_changed then return end
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
function record_success(L)
  local A = read_auto(L)
  if not A or L.used < A.limit or A.limit >= A.ceiling then return end
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
function throttle_ticket(id, pause, header, is_refused)
  local R = read_ticket(id)
  if not R or (R[STATE] ~= HELD and R[STATE] ~= SHARED) then return end
  local L = get_line(R[LINE])
  if not read_auto(L) then return end
  local granted_at = call('ZSCORE', R[STATE] == HELD and L.held or L.shared, id) / 1000
  if is_refused then record_refusal(L, granted_at, pause) end
  if pause > 0 and seconds + pause > L.paused then
    L.paused, L.pause_header, L.auto_changed = seconds + pause, header, true
  end
end
-- A limit that adapts up to a ceiling; a negative capacity demands it.
function set_capacity(L, capacity, ceiling)
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
function restore_limit(L, limit, refused)
  local A = read_auto(L)
  if not A or A.decreased_at > -math.huge then return end
  A.limit, A.refused, A.decreased_at = math.min(limit, A.ceiling), refused, seconds
  change_auto(L)
end
end
-- Policy `load`, as _core/policies/load.py: a sorted set of agents by birth for each distinct weight; `tops` has these
-- weights by the birth of the oldest agent, `loads` by themselves. `agents` holds weight|birth|member of each agent that
-- waits.
local load = {is_metered = false}
do
local call, fmt, int = call, fmt, int
local function update_top(P, weight)
  local r = call('ZRANGE', P.bucket .. weight, 0, 0, 'WITHSCORES')
  if #r == 0 then
    call('ZREM', P.tops, weight)
    call('ZREM', P.loads, weight)
  else
    call('ZADD', P.tops, r[2], weight)
  end
end
function load.update(P, key, weight, head)
  local known = call('HGET', P.agents, key)
  weight = int(weight)
  if known then
    local w, b, member = string.match(known, '^(%-?%d+)|(%-?%d+)|(.*)$')
    if head and w == weight and tonumber(b) == head.birth then return end
    call('ZREM', P.bucket .. w, member)
    update_top(P, w)
  end
  if not head then call('HDEL', P.agents, key) return end
  local member = fmt('%015.0f', head.seq) .. key
  call('HSET', P.agents, key, weight .. '|' .. int(head.birth) .. '|' .. member)
  call('ZADD', P.bucket .. weight, head.birth, member)
  local top = call('ZSCORE', P.tops, weight)
  if not top then call('ZADD', P.loads, weight, weight) end
  if not top or tonumber(top) > head.birth then call('ZADD', P.tops, head.birth, weight) end
end
-- The greatest weight and age.
local function read_maxima(P)
  local weight = call('ZRANGE', P.loads, -1, -1)[1]
  local top = call('ZRANGE', P.tops, 0, 0, 'WITHSCORES')
  return tonumber(weight or '0'), P.line.tick - tonumber(top[2] or int(P.line.tick))
end
local function compute_load(P, weight, max_weight, age, max_age)
  local score, alpha = 0, P.line.alpha
  if max_weight > 0 then score = alpha * weight / max_weight end
  if max_age > 0 then score = score + (1.0 - alpha) * age / max_age end
  return score
end
-- The heaviest and the oldest are compared in turn, until no other can score as much.
function load.pick(P)
  local max_weight, max_age
  local best, birth, weight, member = -1, 0, nil, nil
  local function first(w) return call('ZRANGE', P.bucket .. w, 0, 0)[1] end
  local function compare(w, b)
    if w == weight then return end
    local score = compute_load(P, tonumber(w), max_weight, P.line.tick - b, max_age)
    if score > best or (score == best and b < birth) then best, birth, weight, member = score, b, w, nil
    elseif score == best and b == birth then
      member = member or first(weight)
      local other = first(w)
      if other < member then weight, member = w, other end
    end
  end
  local from, count, decided = 0, 16, false
  repeat
    local heavy = call('ZREVRANGE', P.loads, from, from + count - 1)
    local old = call('ZRANGE', P.tops, from, from + count - 1, 'WITHSCORES')
    local births = #heavy > 0 and call('ZMSCORE', P.tops, unpack(heavy)) or {}
    if from == 0 then max_weight, max_age = tonumber(heavy[1]), P.line.tick - tonumber(old[2]) end
    for i = 1, #heavy do
      local b = tonumber(old[2 * i])
      compare(heavy[i], tonumber(births[i]))
      compare(old[2 * i - 1], b)
      decided = compute_load(P, tonumber(heavy[i]), max_weight, P.line.tick - b, max_age) < best
      if decided then break end
    end
    decided = decided or #heavy < count
    from, count = from + count, math.min(count * 2, 1024)
  until decided
  return string.sub(member or first(weight), 16), best
end
function load.score(P, key)
  local weight, birth = string.match(call('HGET', P.agents, key), '^(%-?%d+)|(%-?%d+)|')
  local max_weight, max_age = read_maxima(P)
  return compute_load(P, tonumber(weight), max_weight, P.line.tick - tonumber(birth), max_age)
end
function load.clear(P)
  for _, weight in ipairs(call('ZRANGE', P.loads, 0, -1)) do call('DEL', P.bucket .. weight) end
  call('DEL', P.tops, P.loads, P.agents)
end
end
-- Policy `fifo`, as _core/policies/fifo.py: the oldest of all waiters, which `ages` has in order.
local fifo = {is_metered = false}
function fifo.update() end
function fifo.score() return 0 end
function fifo.clear() end
-- Returns the ticket itself, and no queue.
function fifo.pick(P)
  return nil, 0, string.sub(call('ZRANGE', P.ages, 0, 0)[1], 16)
end
-- Policy `fair`: start-time fair queueing, as _core/policies/fair.py. `agents` holds tag|competes|open calls|member of
-- each account, where `competes` is 2 from a charge until the next update; `tags` has the competing agents by tag: equal tags are in the order of the members, which begin with the
-- owing flag, birth and sequence number of the head. `idle` holds the accounts without waiters and open calls.
local fair, read_account, position, find_share
do
local call, fmt, int = call, fmt, int
fair = {is_metered = true}
local MAX_IDLE = 1000
function read_account(P, key)
  local A = P.accounts[key]
  if A then return A end
  local s = call('HGET', P.agents, key)
  if not s then return {tag = P.virtual, competes = false, is_granted = false, open = 0, member = ''} end
  local tag, competes, open, member = string.match(s, '^(%-?%d+)|(%d)|(%d+)|(.*)$')
  A = {tag = tonumber(tag), competes = competes ~= '0', is_granted = competes == '2', open = tonumber(open),
       member = member}
  P.accounts[key] = A
  return A
end
local function write_account(P, key, A) P.accounts[key], P.changed[key] = A, true end
function fair.format(A)
  return fmt('%.0f|%s|%.0f|', A.tag, A.competes and (A.is_granted and '2' or '1') or '0', A.open) .. A.member
end
local function advance_virtual(P, virtual)
  while true do
    local r = call('ZRANGE', P.idle, 0, 0, 'WITHSCORES')
    if #r == 0 or (virtual and tonumber(r[2]) > virtual) then break end
    call('ZREM', P.idle, r[1])
    remove_account(P, r[1])
    if P.on_removed then P.on_removed(r[1]) end
  end
  if virtual then P.virtual = virtual end
end
local function activate(P, key, A)
  call('ZREM', P.idle, key)
  if A.tag < P.virtual then A.tag = P.virtual end
end
local function deactivate(P, key, A)
  if A.open > 0 then return end
  call('ZADD', P.idle, int(A.tag), key)
  if P.open == 0 and call('ZCARD', P.tags) == 0 then
    advance_virtual(P, nil)
    P.virtual = 0
  elseif A.tag <= P.virtual then advance_virtual(P, P.virtual)
  elseif call('ZCARD', P.idle) > MAX_IDLE then
    advance_virtual(P, tonumber(call('ZRANGE', P.idle, 0, 0, 'WITHSCORES')[2]))
  end
end
function position(head) return fmt('%015.0f%015.0f', head.birth, head.seq) end
function fair.update(P, key, _, head)
  local A = read_account(P, key)
  if not head then
    if not A.competes then return end
    call('ZREM', P.tags, A.member)
    A.competes, A.member = false, ''
    write_account(P, key, A)
    deactivate(P, key, A)
    return
  end
  local owing
  if A.competes then
    local granted = A.is_granted
    if not granted and string.sub(A.member, 2, 31) == position(head) then return end
    call('ZREM', P.tags, A.member)
    owing = granted or string.sub(A.member, 1, 1) == '1'
  else
    owing = A.tag > P.virtual
    activate(P, key, A)
    A.competes = true
  end
  A.is_granted = false
  A.member = (owing and '1' or '0') .. position(head) .. key
  call('ZADD', P.tags, int(A.tag), A.member)
  write_account(P, key, A)
end
function fair.pick(P)
  local r = call('ZRANGE', P.tags, 0, 0, 'WITHSCORES')
  return string.sub(r[1], 32), (P.virtual - tonumber(r[2])) / 1000000
end
function fair.score(P, key) return (P.virtual - read_account(P, key).tag) / 1000000 end
function find_share(P, agent) return P.shares and P.shares[string.match(agent, '[^\31]*$')] or 1000 end
local function compute_increment(P, agent, weight)
  return P.shares and math.ceil(weight * 1000000 / find_share(P, agent)) or weight * 1000
end
function fair.charge(P, key, agent, weight)
  local A = read_account(P, key)
  if not A.competes then activate(P, key, A) end
  local first = call('ZRANGE', P.tags, 0, 0, 'WITHSCORES')
  local start = A.tag
  if #first > 0 and tonumber(first[2]) < start then start = tonumber(first[2]) end
  if start > P.virtual then advance_virtual(P, start) end
  local increment = compute_increment(P, agent, weight)
  A.tag, A.open = A.tag + increment, A.open + 1
  A.is_granted = A.is_granted or (A.competes and increment ~= 0)
  P.open = P.open + 1
  write_account(P, key, A)
end
function fair.settle(P, key, agent, delta)
  local A = read_account(P, key)
  if A.open == 0 then return end
  A.open = A.open - 1
  P.open = P.open - 1
  A.tag = A.tag + compute_increment(P, agent, delta)
  write_account(P, key, A)
  if not A.competes then deactivate(P, key, A)
  elseif delta ~= 0 then
    A.is_granted = false
    call('ZADD', P.tags, int(A.tag), A.member)
  end
end
function fair.clear(P)
  call('DEL', P.agents, P.tags, P.idle)
  P.accounts, P.changed = {}, {}
  P.virtual, P.open = 0, 0
end
end
-- Policy `las`, as _core/policies/las.py: the same operations on the same doubles, with the server's time in seconds.
-- `agents` holds attained|open calls|position of each account, `tags` the queues that compete by attained service: equal
-- ones are in the order of their members, which begin with the position of the head. `idle` holds the accounts without
-- waiters and open calls by the time since which they are silent.
local las = {is_metered = true, is_dated = true}
do
local call, fmt, int = call, fmt, int
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
  A.attained = A.attained + weight * 1000 / find_share(P, agent) * compute_factor(P, at)
end
function las.update(P, key, _, head)
  local A = read_service(P, key)
  local place = head and position(head) or ''
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
end
-- Scopes, and tenants as _core/policies/tenants.py: `fair` among tenants, and the policy among the queues of each. A level
-- has one scope, and from the first waiter that names a tenant on one for each tenant. Requests without a tenant are of the
-- tenant with the empty name.
local policies, tenants, read_order, prepare_scope, find_tenant, get_scope, wake_tenant, pick_scope, clear_scopes
do
local call, fmt, int = call, fmt, int
policies = {load = load, fair = fair, las = las, fifo = fifo}
local MAX_DORMANT = 1000
tenants = {}
function read_order(L)
  L = L.line
  if not L.facts then L.facts = L.order ~= '' and cjson.decode(L.order) or {} end
  return L.facts
end
function prepare_scope(L, P)
  local facts = read_order(L)
  P.is_apart = facts.by_run == 1 or L.is_classed
  P.waiters, P.weights = L.waiters, L.weights
  if P.is_apart then
    P.weights, P.waiters = prefix .. 'apart:weights:' .. L.key, prefix .. 'apart:waiters:' .. L.key .. ':'
  end
  P.shares = L.shares ~= '' and cjson.decode(L.shares) or nil
  P.half_life, P.idle_timeout = tonumber(facts.half_life), tonumber(facts.idle_timeout)
  P.is_ready = true
  return P
end
-- Tenants without an account whose policy still has history, as `las` has; the first has been idle longest.
local function dormant_key(L) return prefix .. 'dormant:' .. L.key end
local function forget_tenant(L, tenant)
  call('HDEL', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\31' .. tenant)
  L.scopes[tenant] = nil
end
local function get_order(L)
  if L.among then return L.among end
  local O = make_scope(L, '\30', call('HGET', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\30') or nil)
  O.shares = read_order(L).tenant_shares
  function O.on_removed(tenant)
    if L.policy == 'las' and call('ZCARD', tenants.get_scope(L, tenant).idle) > 0 then
      local last = call('ZRANGE', dormant_key(L), -1, -1, 'WITHSCORES')
      call('ZADD', dormant_key(L), tonumber(last[2] or '0') + 1, tenant)
    else forget_tenant(L, tenant) end
  end
  L.among = O
  return O
end
function find_tenant(key)
  local at = string.find(key, '\31', 1, true)
  return at and string.sub(key, 1, at - 1) or ''
end
function tenants.get_scope(L, tenant)
  local P = L.scopes[tenant]
  if P then return P end
  local state = call('HGET', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\31' .. tenant)
  P = prepare_scope(L, make_scope(L, '\31' .. tenant, state or nil))
  L.scopes[tenant] = P
  return P
end
-- Returns the scope of a queue.
function get_scope(L, key)
  if L.is_tenanted then return tenants.get_scope(L, find_tenant(key)) end
  return L.scope.is_ready and L.scope or prepare_scope(L, L.scope)
end
function wake_tenant(L, tenant)
  if L.policy == 'las' then call('ZREM', dormant_key(L), tenant) end
end
local function remove_dormant(L)
  if L.policy ~= 'las' then return end
  while true do
    local tenant = call('ZRANGE', dormant_key(L), 0, 0)[1]
    if not tenant then return end
    local P = tenants.get_scope(L, tenant)
    las.remove_silent(P)
    if call('ZCARD', P.idle) > 0 and call('ZCARD', dormant_key(L)) <= MAX_DORMANT then return end
    las.clear(P)
    call('ZREM', dormant_key(L), tenant)
    forget_tenant(L, tenant)
  end
end
-- After a change of a queue of the tenant.
function tenants.update(L, tenant)
  local first = call('ZRANGE', tenants.get_scope(L, tenant).ages, 0, 0, 'WITHSCORES')
  if #first == 0 then return fair.update(get_order(L), tenant, 0, nil) end
  local head = {birth = tonumber(first[2]), seq = tonumber(string.sub(first[1], 1, 15))}
  fair.update(get_order(L), tenant, 0, head)
end
function tenants.charge(L, R, key)
  remove_dormant(L)
  local tenant, policy = find_tenant(key), policies[L.policy]
  wake_tenant(L, tenant)
  if policy.is_metered then policy.charge(tenants.get_scope(L, tenant), key, R[AGENT], R[WEIGHT]) end
  fair.charge(get_order(L), tenant, tenant, R[WEIGHT])
end
function tenants.settle(L, R, key, correction)
  local tenant, policy = find_tenant(key), policies[L.policy]
  if policy.is_metered then
    policy.settle(tenants.get_scope(L, tenant), key, R[AGENT], correction, R[CHARGED_AT])
  end
  fair.settle(get_order(L), tenant, tenant, correction)
end
-- Returns the scope that is served next, and its tenant.
function pick_scope(L)
  if not L.is_tenanted then return get_scope(L, ''), '' end
  local tenant = fair.pick(get_order(L))
  return get_scope(L, tenant .. '\31'), tenant
end
function tenants.list_scopes(L)
  if not L.is_tenanted then return {get_scope(L, '')} end
  local scopes = {}
  for _, field in ipairs(call('HKEYS', prefix .. 'line:' .. L.name)) do
    local tenant = string.match(field, '^state' .. L.suffix .. '\31(.*)$')
    if tenant then tenants.get_scope(L, tenant) end
  end
  for _, P in pairs(L.scopes) do scopes[#scopes + 1] = P end
  return scopes
end
-- Removes what the policies have stored.
function clear_scopes(L)
  for _, P in ipairs(tenants.list_scopes(L)) do
    policies[L.policy].clear(P)
    if L.is_tenanted then call('DEL', P.ages) end
  end
  if L.is_tenanted then
    for tenant in pairs(L.scopes) do forget_tenant(L, tenant) end
    fair.clear(get_order(L))
    call('DEL', dormant_key(L))
    call('HDEL', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\30')
  end
  L.is_tenanted, L.scopes, L.among, L.scope = false, {}, false, make_scope(L, '')
end
function tenants.save(L)
  if not L.is_tenanted then return end
  local states = {['state' .. L.suffix .. '\30'] = format_state(get_order(L))}
  save_accounts(L.among, fair.format)
  for tenant, P in pairs(L.scopes) do
    save_accounts(P, policies[L.policy].format)
    states['state' .. L.suffix .. '\31' .. tenant] = format_state(P)
  end
  write_fields(prefix .. 'line:' .. L.name, states)
end
end
-- Levels: the waiters of one class of urgency, as _core/priority_level.py. A line is the level of the class `normal`. From
-- the first request of another class on there are two more, which read all but their own from the line.
local levels, get_level
do
local call, fmt, int = call, fmt, int
local MEMBERS = {'is_tenanted', 'version', 'state'}
levels = {}
function get_level(L, class)
  if class == 1 or not L.is_classed then return L end
  local V = L.levels[class]
  if V then return V end
  local suffix = '\29' .. class
  local h = call('HMGET', prefix .. 'line:' .. L.name, MEMBERS[1] .. suffix, MEMBERS[2] .. suffix, MEMBERS[3] .. suffix)
  V = setmetatable({key = L.name .. suffix, suffix = suffix, ages = prefix .. 'ages:' .. L.name .. suffix, scopes = {},
                    is_tenanted = h[1] == '1', version = tonumber(h[2] or '0')}, {__index = L})
  V.among = false
  V.scope = make_scope(V, '', h[3] or nil)
  L.levels[class] = V
  return V
end
function levels.list(L)
  if not L.is_classed then return {L} end
  return {get_level(L, 0), L, get_level(L, 2)}
end
function levels.save(L)
  for class, V in pairs(L.levels) do
    tenants.save(V)
    if policies[L.policy].format then save_accounts(V.scope, policies[L.policy].format) end
    local s = V.suffix
    call('HSET', prefix .. 'line:' .. L.name, MEMBERS[1] .. s, V.is_tenanted and 1 or 0, MEMBERS[2] .. s, int(V.version),
         MEMBERS[3] .. s, format_state(V.scope))
  end
end
-- The waiters of a scope that have a deadline, the earliest first.
local function due_key(V, tenant) return prefix .. 'due:' .. V.key .. '\31' .. tenant end
function levels.add_due(L, V, R, member)
  if (R[DUE] or -1) < 0 then return end
  L.is_dated = true
  call('ZADD', due_key(V, find_tenant(R[AGENT])), int(R[DUE]), member)
end
function levels.remove_due(V, R, member)
  if (R[DUE] or -1) >= 0 then call('ZREM', due_key(V, find_tenant(R[AGENT])), member) end
end
-- Returns the ticket of a level to be granted next, and what is known of the reason: the score of its queue, and its head.
function levels.select_next(L, V)
  if L.guard > 0 then
    local oldest = call('ZRANGE', V.ages, 0, 0, 'WITHSCORES')
    if L.tick - tonumber(oldest[2]) >= L.guard then return string.sub(oldest[1], 16), 'guard' end
  end
  local P, tenant = pick_scope(V)
  if L.is_dated then
    local dated = call('ZRANGE', due_key(V, tenant), 0, 0)[1]
    if dated then return string.sub(dated, 16), 'score' end
  end
  local key, score, id = policies[L.policy].pick(P)
  if not key then return id, 'score', score end
  local head = find_head(P.waiters, key)
  if P.is_apart then return head.id, 'score', score end
  return head.id, 'score', score, head
end
end
-- The order between classes of urgency, as _core/priority_order.py: strict ones first, and `fair` between the others. The
-- slots of the classes that are not normal are in sets; of the normal ones are the rest.
local classes = {}
do
local call, fmt, int = call, fmt, int
local CLASSES = {{8000, false, -1, 1}, {4000, false, -1, 1}, {1000, false, -1, 0.9}}
local function get_rule(L, class)
  local rule = (read_order(L).classes or CLASSES)[class + 1]
  return {share = rule[1], is_strict = rule[2], slots = rule[3], fraction = rule[4]}
end
local function slots_key(L, class) return prefix .. 'slots:' .. L.name .. ':' .. int(class) end
function classes.count_slots(L, class)
  if class ~= 1 then return call('SCARD', slots_key(L, class)) end
  return L.used - call('SCARD', slots_key(L, 0)) - call('SCARD', slots_key(L, 2))
end
function classes.is_capped(L, class)
  local rule = get_rule(L, class)
  local ceiling = rule.slots >= 0 and rule.slots or math.huge
  if rule.fraction < 1 and L.limit ~= math.huge then
    ceiling = math.min(ceiling, math.max(1, math.floor(L.limit * rule.fraction)))
  end
  return ceiling ~= math.huge and classes.count_slots(L, class) >= ceiling
end
function classes.has_ceiling(L, class)
  local rule = get_rule(L, class)
  return rule.slots >= 0 or rule.fraction < 1
end
function classes.add_slot(L, id, R)
  if find_class(R) ~= 1 then call('SADD', slots_key(L, find_class(R)), id) end
end
function classes.remove_slot(L, id, R)
  if find_class(R) ~= 1 then call('SREM', slots_key(L, find_class(R)), id) end
end
local function get_accounts(L)
  if not L.classes then
    L.classes = make_scope(L, '\28', call('HGET', prefix .. 'line:' .. L.name, 'state\28') or nil)
    L.classes.shares = {}
    for class = 0, 2 do L.classes.shares[int(class)] = get_rule(L, class).share end
  end
  return L.classes
end
local function competes(L, class)
  return call('ZCARD', get_level(L, class).ages) > 0 and not classes.is_capped(L, class)
end
local function update_class(L, class, is_competing)
  fair.update(get_accounts(L), int(class), 0, is_competing and {birth = class, seq = 0} or nil)
end
function classes.update(L)
  if not L.is_classed then return end
  for class = 0, 2 do
    if not get_rule(L, class).is_strict then update_class(L, class, competes(L, class)) end
  end
end
-- Returns the level to be served next; nil if all waiters are of classes that hold as many slots as they may.
function classes.pick(L)
  if not L.is_classed then return L end
  classes.update(L)
  for class = 0, 2 do
    if get_rule(L, class).is_strict and competes(L, class) then return get_level(L, class) end
  end
  local P = get_accounts(L)
  if call('ZCARD', P.tags) == 0 then return nil end
  return get_level(L, tonumber((fair.pick(P))))
end
-- Returns whether a new ticket has to wait although slots are free.
function classes.must_queue(L, R)
  if not L.is_classed then return L.waiting > 0 end
  if classes.is_capped(L, find_class(R)) then return true end
  for class = 0, 2 do if competes(L, class) then return true end end
  return false
end
-- A class is charged for what has waited alone.
function classes.charge(L, R)
  if not L.is_classed or R[CLASS_CHARGED] == L.order_version then return end
  R[RUN], R[CHARGED_AT], R[CLASS], R[DUE] = R[RUN] or '', R[CHARGED_AT] or 0, find_class(R), R[DUE] or -1
  R[CLASS_CHARGED] = L.order_version
  local class = R[CLASS]
  if get_rule(L, class).is_strict then return end
  local P = get_accounts(L)
  fair.charge(P, int(class), int(class), R[WEIGHT])
  if read_account(P, int(class)).competes then update_class(L, class, true) end
end
function classes.settle(L, R, correction)
  if L.is_classed and R[CLASS_CHARGED] == L.order_version then
    fair.settle(get_accounts(L), int(find_class(R)), int(find_class(R)), correction)
  end
end
function classes.clear(L)
  if L.is_classed then fair.clear(get_accounts(L)) end
  call('HDEL', prefix .. 'line:' .. L.name, 'state\28')
  L.classes, L.order_version = nil, L.order_version + 1
end
function classes.save(L)
  if not L.classes then return end
  save_accounts(L.classes, fair.format)
  call('HSET', prefix .. 'line:' .. L.name, 'state\28', format_state(L.classes))
end
end
-- The queues of waiters: one for each agent, by which grants are reported. The policy orders them, or with `by_run` those
-- of the runs, which it has apart.
local find_key, compute_score, replace_order, enable_classes, enqueue, dequeue
do
local call, fmt, int = call, fmt, int

-- Returns the key of the queue that the policy orders.
function find_key(L, R)
  if (R[RUN] or '') == '' or read_order(L).by_run ~= 1 then return R[AGENT] end
  return find_tenant(R[AGENT]) .. '\31' .. R[RUN] .. '\31run'
end
function compute_score(L, R)
  local key = find_key(L, R)
  return policies[L.policy].score(get_scope(get_level(L, find_class(R)), key), key)
end
local function add_to_queue(waiters, weights, key, R, member)
  call('ZADD', waiters .. key, int(R[BIRTH]), member)
  return call('HINCRBY', weights, key, int(R[WEIGHT]))
end
-- Returns the head and the weight of what is left.
local function remove_from_queue(waiters, weights, key, R, member)
  call('ZREM', waiters .. key, member)
  local head = find_head(waiters, key)
  if head then return head, call('HINCRBY', weights, key, int(-R[WEIGHT])) end
  call('HDEL', weights, key)
  return nil, 0
end
local function update_queue(L, P, key, weight, head)
  policies[L.policy].update(P, key, weight, head)
  if L.is_tenanted then tenants.update(L, find_tenant(key)) end
end
-- Puts all waiters into the queues and scopes in force.
local function fill_scopes(L)
  local members, keys = call('ZRANGE', L.ages, 0, -1), {}
  for _, member in ipairs(members) do
    if L.is_tenanted or get_scope(L, '').is_apart then
      local R = read_ticket(string.sub(member, 16))
      local key = find_key(L, R)
      local P = get_scope(L, key)
      if P.is_apart then add_to_queue(P.waiters, P.weights, key, R, member) end
      if L.is_tenanted then call('ZADD', P.ages, int(R[BIRTH]), member) end
    end
  end
  local weights = call('HGETALL', get_scope(L, '').weights)
  for i = 1, #weights, 2 do
    local P = get_scope(L, weights[i])
    update_queue(L, P, weights[i], tonumber(weights[i + 1]), find_head(P.waiters, weights[i]))
  end
end
local function empty_scopes(L)
  local P = get_scope(L, '')
  if P.is_apart then
    for _, key in ipairs(call('HKEYS', P.weights)) do call('DEL', P.waiters .. key) end
    call('DEL', P.weights)
  end
  clear_scopes(L)
  L.version = L.version + 1
end
local function names_tenant(L)
  if not L.is_classed then
    for _, key in ipairs(call('HKEYS', L.weights)) do if find_tenant(key) ~= '' then return true end end
    return false
  end
  for _, member in ipairs(call('ZRANGE', L.ages, 0, -1)) do
    if find_tenant(read_ticket(string.sub(member, 16))[AGENT]) ~= '' then return true end
  end
  return false
end
-- Orders all waiters again: `change` replaces what they were ordered by.
function replace_order(L, change)
  for _, V in ipairs(levels.list(L)) do empty_scopes(V) end
  classes.clear(L)
  change()
  L.facts = nil
  L.is_classed = L.is_classed or classes.has_ceiling(L, 1)
  for _, V in ipairs(levels.list(L)) do
    V.is_tenanted, V.scope.is_ready = names_tenant(V), nil
    fill_scopes(V)
  end
  classes.update(L)
end
-- Orders by class from now on: the queues by agent hold waiters of all classes, so the policy gets queues apart.
function enable_classes(L)
  if L.is_classed then return end
  local was_apart = get_scope(L, '').is_apart
  L.is_classed, L.scope.is_ready = true, nil
  for _, P in pairs(L.scopes) do prepare_scope(L, P) end
  for _, member in ipairs(was_apart and {} or call('ZRANGE', L.ages, 0, -1)) do
    local R = read_ticket(string.sub(member, 16))
    local key = find_key(L, R)
    local P = get_scope(L, key)
    add_to_queue(P.waiters, P.weights, key, R, member)
  end
  classes.update(L)
end
function enqueue(L, id, R)
  local V, key, member = get_level(L, find_class(R)), find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  call('ZADD', V.ages, int(R[BIRTH]), member)
  L.waiting = L.waiting + 1
  local weight = add_to_queue(L.waiters, L.weights, R[AGENT], R, member)
  if R[DUE] then levels.add_due(L, V, R, member) end
  if not V.is_tenanted and find_tenant(R[AGENT]) ~= '' then
    empty_scopes(V)
    V.is_tenanted = true
    fill_scopes(V)
    return classes.update(L)
  end
  local P = get_scope(V, key)
  if P.is_apart then weight = add_to_queue(P.waiters, P.weights, key, R, member) end
  if V.is_tenanted then
    wake_tenant(V, find_tenant(key))
    call('ZADD', P.ages, int(R[BIRTH]), member)
  end
  update_queue(V, P, key, weight, find_head(P.waiters, key))
  classes.update(L)
end
-- Returns the weight that its agent's other waiters have.
function dequeue(L, id, R)
  local V, key, member = get_level(L, find_class(R)), find_key(L, R), fmt('%015.0f', R[SEQ]) .. id
  local P = get_scope(V, key)
  call('ZREM', V.ages, member)
  if V.is_tenanted then call('ZREM', P.ages, member) end
  if R[DUE] then levels.remove_due(V, R, member) end
  L.waiting = L.waiting - 1
  if L.waiting == 0 then L.gate = '' end
  local head, left = remove_from_queue(L.waiters, L.weights, R[AGENT], R, member)
  local weight = left
  if P.is_apart then head, weight = remove_from_queue(P.waiters, P.weights, key, R, member) end
  update_queue(V, P, key, weight, head)
  classes.update(L)
  return left
end
end
-- Adaptive alpha of policy `load`, as _core/alpha_tuner.py. `tuner` of a line is the tick of the next update, and what the
-- last updates have seen: tick, weight and number of all that waited. It is empty where alpha is constant.
local advance_tick
do
local call, fmt, int = call, fmt, int
local STEP, LOW, HIGH, SPREAD, WINDOW, GROWTH, MOST, MARGIN, AGENTS_PER_TICK = 0.01, 0, 0.5, 0.5, 10, 1.2, 0.45, 0.9, 16
local function read_observations(L)
  local seen = {}
  for tick, weight, count in string.gmatch(L.tuner, ';(%d+),(%d+),(%d+)') do
    seen[#seen + 1] = {tick = tonumber(tick), weight = tonumber(weight), count = tonumber(count)}
  end
  return seen
end
local function estimate_arrivals(first, last)
  if last.tick <= first.tick then return 1 end
  return math.max(0, 1 + (last.count - first.count) / (last.tick - first.tick))
end
-- The weight and the birth of each agent's queue, as `weight|birth|...`.
local function list_queues(L)
  if not L.is_tenanted and not get_scope(L, '').is_apart then return call('HVALS', L.scope.agents) end
  local entries, weights = {}, call('HGETALL', L.weights)
  for i = 1, #weights, 2 do
    entries[#entries + 1] = fmt('%s|%.0f|', weights[i + 1], find_head(L.waiters, weights[i]).birth)
  end
  return entries
end
local function tune_alpha(L)
  if L.tuner == '' or L.tick < tonumber(string.match(L.tuner, '^%d+')) then return end
  local entries = list_queues(L)
  local total, squares, weight = 0, 0, 0
  for _, entry in ipairs(entries) do
    local w, birth = string.match(entry, '^(%-?%d+)|(%-?%d+)|')
    local age = L.tick - birth
    total, squares, weight = total + age, squares + age * age, weight + w
  end
  local seen, alpha = read_observations(L), L.alpha
  seen[#seen + 1] = {tick = L.tick, weight = weight, count = L.waiting}
  if #seen > WINDOW then table.remove(seen, 1) end
  local grown = GROWTH * seen[1].weight
  if #entries * squares > (1 + SPREAD * SPREAD) * (total * total) then alpha = alpha - STEP
  elseif #seen == WINDOW and weight > grown and grown > 0 then alpha = alpha + STEP end
  L.alpha = math.max(LOW, math.min(alpha, HIGH, MOST, MARGIN / (1 + estimate_arrivals(seen[1], seen[#seen]))))
  L.tuner = int(L.tick + 1 + math.floor(#entries / AGENTS_PER_TICK))
  for _, it in ipairs(seen) do L.tuner = fmt('%s;%.0f,%.0f,%.0f', L.tuner, it.tick, it.weight, it.count) end
  call('HSET', prefix .. 'line:' .. L.name, 'alpha', fmt('%.17g', L.alpha), 'tuner', L.tuner)
end
-- A slot has become free.
function advance_tick(L)
  L.tick = L.tick + 1
  tune_alpha(L)
end
end
-- What happens to tickets: submit, grant, suspend, end. A step grants while there is room.
local granted, wakes, learning, report, charge, count_sharers, hold, grant, fill, end_ticket, suspend_ticket, add_facts, submit_ticket
do
local call, fmt, int = call, fmt, int
granted, wakes = {}, {}
learning = learning_until > now

function report(id, R, answer)
  if R[OWNER] == owner then granted[#granted + 1] = answer
  else
    local list = wakes[R[OWNER]]
    if not list then list = {}; wakes[R[OWNER]] = list end
    list[#list + 1] = answer
  end
end
function charge(L, R)
  local policy, V = policies[L.policy], get_level(L, find_class(R))
  if not (policy.is_metered or V.is_tenanted) or R[CHARGED] == V.version then return end
  R[CHARGED] = V.version
  if policy.is_dated then R[RUN], R[CHARGED_AT] = R[RUN] or '', seconds end
  local key = find_key(L, R)
  if V.is_tenanted then tenants.charge(V, R, key) else policy.charge(get_scope(V, key), key, R[AGENT], R[WEIGHT]) end
end
local function settle(L, R, correction)
  local V = get_level(L, find_class(R))
  if R[CHARGED] == V.version then
    local key = find_key(L, R)
    if V.is_tenanted then tenants.settle(V, R, key, correction)
    else policies[L.policy].settle(get_scope(V, key), key, R[AGENT], correction, R[CHARGED_AT]) end
  end
  if R[CLASS] then classes.settle(L, R, correction) end
end
function count_sharers(L)
  L.sharers = L.sharers or call('ZCARD', L.shared)
  return L.sharers
end
function hold(L, id, R)
  if R[CLASS] then classes.add_slot(L, id, R) end
  R[STATE] = HELD
  call('ZADD', L.held, now, id)
  L.used = L.used + 1
end
-- Grants a ticket. `head` is that of its agent's queue if the ticket waits, nil if it is new.
function grant(L, id, R, reason, score, head, lender)
  local queued = head or (L.waiting > 0 and find_head(L.waiters, R[AGENT]))
  local weight, age = R[WEIGHT], L.tick - (queued and queued.birth or R[BIRTH])
  if queued and not head then weight = tonumber(call('HGET', L.weights, R[AGENT])) end
  charge(L, R)
  if head then classes.charge(L, R) end
  take_rates(L, 1, R[TOKENS] or 0)
  if head then weight = weight + dequeue(L, id, R) end
  R[WAITED], R[REASON] = L.tick - R[BIRTH], reason
  if lender then
    R[STATE], R[LENDER] = SHARED, lender
    L.sharers = count_sharers(L) + call('ZADD', L.shared, now, id)
  else hold(L, id, R) end
  write_ticket(id, R)
  report(id, R, {id, reason, L.tick, L.tick - R[SINCE], R[WAITED], fmt('%.17g', score), weight, age})
end
local function is_overdue(R) return (R[DUE] or -1) >= 0 and R[DUE] <= now end
-- A waiter whose deadline has passed, and whose process has not ended its wait yet.
local function reject_overdue(L, id, R)
  dequeue(L, id, R)
  settle(L, R, 0)
  write_ticket(id, false)
  call('SREM', prefix .. 'own:' .. R[OWNER], id)
  report(id, R, {id, 'late'})
end
function fill(L)
  if learning then return end
  while L.waiting > 0 and L.used < L.limit do
    local V = classes.pick(L)
    if not V then return end
    local id, reason, score, head = levels.select_next(L, V)
    local R = read_ticket(id)
    local opened, gate = is_open(L, R)
    L.gate = gate or ''
    if not opened then return end
    if is_overdue(R) then reject_overdue(L, id, R)
    else grant(L, id, R, reason, score or compute_score(L, R), head or find_head(L.waiters, R[AGENT])) end
  end
end

-- Ends a lease; a slot that another lease shares passes to it, else it is free.
local function free_slot(L, id, R)
  if R[STATE] == SHARED then
    L.sharers = count_sharers(L) - call('ZREM', L.shared, id)
    return false
  end
  if call('ZREM', L.held, id) == 0 then return false end
  if R[CLASS] then classes.remove_slot(L, id, R) end
  L.used = L.used - 1
  if count_sharers(L) == 0 then return true end
  local heir
  for _, other in ipairs(call('ZRANGE', L.shared, 0, -1)) do
    local S = read_ticket(other)
    if S[LENDER] == id then
      if heir then S[LENDER] = heir
      else
        heir = other
        L.sharers = L.sharers - call('ZREM', L.shared, other)
        S[LENDER] = ''
        hold(L, other, S)
      end
      write_ticket(other, S)
    end
  end
  return not heir
end
-- `requests` and `tokens` are what it takes of the rates beyond its estimate; of a lease alone, as a waiter took nothing.
-- `succeeded`: whether the call ended well, by which an adaptive limit grows.
function end_ticket(id, correction, requests, tokens, succeeded)
  local R = read_ticket(id)
  if not R then return end
  local L = get_line(R[LINE])
  if R[STATE] == HELD or R[STATE] == SHARED then
    take_rates(L, requests, tokens)
    if succeeded == 1 then record_success(L) end
  end
  write_ticket(id, false)
  call('SREM', prefix .. 'own:' .. R[OWNER], id)
  if R[STATE] == WAITING then
    dequeue(L, id, R)
    settle(L, R, correction)
  else
    settle(L, R, correction)
    if R[STATE] ~= SUSPENDED and free_slot(L, id, R) then advance_tick(L) end
  end
  fill(L)
end
function suspend_ticket(id, requests, tokens)
  local R = read_ticket(id)
  if not R or (R[STATE] ~= HELD and R[STATE] ~= SHARED) then return end
  local L = get_line(R[LINE])
  take_rates(L, requests, tokens)
  local freed = free_slot(L, id, R)
  R[STATE], R[LENDER] = SUSPENDED, ''
  write_ticket(id, R)
  if freed then advance_tick(L) end
  fill(L)
end
-- What most tickets do not have: a run, another class than `normal`, ms until its deadline; -1 is none.
function add_facts(L, R, run, class, due)
  if not class then return end
  R[RUN], R[CHARGED_AT], R[CLASS], R[DUE] = run, R[CHARGED_AT] or 0, class, due < 0 and -1 or now + due
  R[CLASS_CHARGED] = R[CLASS_CHARGED] or -1
  if class ~= 1 then enable_classes(L) end
end
-- A new ticket, or a suspended one that returns, with the ticks that it waited before. One that may not wait is refused
-- if it is not granted at once.
function submit_ticket(id, name, agent, weight, waited, immediate, tokens, run, class, due)
  local is_new = call('SADD', prefix .. 'own:' .. owner, id) == 1
  local R = not is_new and read_ticket(id)
  if R and R[STATE] ~= SUSPENDED then return end
  local L = get_line(name)
  if not R then
    L.seq = L.seq + 1
    R = {name, agent, weight, owner, 0, L.seq, WAITING, -1, 0, waited, '', '', tokens}
  end
  add_facts(L, R, run, class, due)
  R[STATE], R[SINCE], R[BIRTH] = WAITING, L.tick, math.max(0, L.tick - R[WAITED])
  if not learning and L.used < L.limit and not classes.must_queue(L, R) and is_open(L, R) then
    return grant(L, id, R, 'free', 0, nil)
  end
  if immediate == 1 then
    -- One that returns from a pause stays suspended, until its process ends it.
    R[STATE] = SUSPENDED
    if is_new then call('SREM', prefix .. 'own:' .. owner, id) end
    granted[#granted + 1] = {id, 'full'}
    return
  end
  write_ticket(id, R)
  enqueue(L, id, R)
  fill(L)
end
end
-- Holders that wait for each other. A process reports for a line how many leases it has that are all blocked or idle,
-- and the waiter that would free one of them. Once that holds for all leases of the line, the best placed of those
-- waiters shares a slot. It is a lease that is not blocked, so no other waiter follows before the next report.
local report_blocked, share_slots, report_capped, exempt_waiter, forget_reports
do
local call, fmt, int = call, fmt, int
function report_blocked(name, count, id, lender)
  local L = get_line(name)
  if count == 0 then call('HDEL', L.blocked, owner)
  else call('HSET', L.blocked, owner, int(count) .. '|' .. id .. '|' .. lender) end
end
local function precedes(a, b)
  for k = 1, 3 do if a[k] ~= b[k] then return a[k] < b[k] end end
  return false
end
function share_slots(L)
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
-- A class at its ceiling: a process reports how many leases of it cannot end before the waiter that it names. Once that
-- holds for all of the class, the first of those waiters is granted beyond the ceiling.
local function capped_key(L) return prefix .. 'capped:' .. L.name end
function report_capped(name, class, count, id)
  local L, field = get_line(name), int(class) .. '|' .. owner
  if count == 0 then call('HDEL', capped_key(L), field)
  else call('HSET', capped_key(L), field, int(count) .. '|' .. id) end
end
function exempt_waiter(L)
  if learning or not L.is_classed or L.waiting == 0 or L.used >= L.limit then return end
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
function forget_reports(process)
  for _, name in ipairs(call('SMEMBERS', LINES)) do
    call('HDEL', prefix .. 'blocked:' .. name, process)
    call('HDEL', prefix .. 'capped:' .. name, '0|' .. process, '1|' .. process, '2|' .. process)
  end
end
end
-- Leases belong to processes: each step of a process renews all that it has. A process that is silent for its lease
-- time loses its tickets. After a loss of state nothing is granted and no process is buried until each had time to
-- register its leases again.
local NUMBER_KEPT_MS, start_learning, record_loss, number_key, bury_expired, leave_process
do
local call, fmt, int = call, fmt, int
local BURIED_PER_STEP = 200
NUMBER_KEPT_MS = 3600000
function start_learning()
  if learning then return end  -- the first to come has started it; the others must not prolong it
  learning = true
  learning_until = now + math.floor(ttl / 2)
  call('HSET', config, 'learning', int(learning_until))
end
-- What was granted is forgotten with the state, so nothing of the last minute may be granted again.
function record_loss()
  start_learning()
  if lost_until > now then return end
  lost_until = now + math.floor(ttl / 2)
  call('HSET', config, 'lost', int(lost_until))
  for _, name in ipairs(call('SMEMBERS', LINES)) do empty_buckets(get_line(name)) end
end
function number_key(process) return prefix .. 'number:' .. process end
local function forget_process(process)
  call('DEL', prefix .. 'own:' .. process, prefix .. 'wake:' .. process, prefix .. 'unseen:' .. process)
  call('ZREM', PROCESSES, process)
  call('HDEL', HOSTS, process)
  forget_reports(process)
end
-- Ends the tickets of a process, at most BURIED_PER_STEP in a step; its number stays, so that its return is no loss.
local function bury_process(process)
  for _, id in ipairs(call('SRANDMEMBER', prefix .. 'own:' .. process, BURIED_PER_STEP)) do
    call('SREM', prefix .. 'own:' .. process, id)
    end_ticket(id, 0, 0, 0)
  end
  if call('SCARD', prefix .. 'own:' .. process) == 0 then forget_process(process) end
end
function bury_expired()
  for _, dead in ipairs(call('ZRANGEBYSCORE', PROCESSES, '-inf', now - 1, 'LIMIT', 0, 1)) do
    if dead ~= owner then bury_process(dead) end
  end
end
function leave_process()
  while call('ZSCORE', PROCESSES, owner) do bury_process(owner) end
  call('DEL', number_key(owner))
  if call('ZCARD', PROCESSES) == 0 then
    -- The last one deletes the state; what is stated is stated again by the next.
    for _, name in ipairs(call('SMEMBERS', LINES)) do
      local L = get_line(name)
      L.gone = true
      expire_rates(L)
      for _, V in ipairs(levels.list(L)) do clear_scopes(V) end
      classes.clear(L)
      call('DEL', prefix .. 'line:' .. name)
    end
    call('DEL', LINES, config)
  end
end
end
-- What happens to one ticket, as a process sends it.
local function apply_operation(o)
  local kind = o[1]
  if kind == 'submit' then submit_ticket(o[2], o[3], o[4], o[5], o[6], o[7], o[8], o[9], o[10], o[11])
  elseif kind == 'end' then end_ticket(o[2], o[3], o[4], o[5], o[6])
  elseif kind == 'suspend' then suspend_ticket(o[2], o[3], o[4])
  elseif kind == 'refuse' then throttle_ticket(o[2], o[3], o[4], true)
  elseif kind == 'pause' then throttle_ticket(o[2], o[3], o[4], false)
  elseif kind == 'blocked' then report_blocked(o[2], o[3], o[4], o[5])
  elseif kind == 'capped' then report_capped(o[2], o[3], o[4], o[5])
  end
end
-- A sync registers all that a process has, in parts, the leases first. What the process states (capacity, policy,
-- guard, shares) travels with it and is in force before its tickets are.
-- statement: {name, limit, policy, alpha, guard, shares, stated, requests and tokens per minute, ceiling, auto_tune, order};
-- a limit below 0 adapts to the provider up to the ceiling, and `order` is what else decides the order, see statements.py.
-- A statement that was never made before is made now; one that is older than that in force is ignored.
local function apply_statement(s)
  local L = get_line(s[1])
  local stated = s[7] == 0 and math.max(now, L.stated + 1) or s[7]
  if stated <= L.stated then return end
  call('SADD', LINES, L.name)
  -- Another capacity alone changes no order.
  local alpha, is_tuned = tonumber(s[4]), s[11] == 1
  local reordered = L.policy ~= s[3] or L.stated_alpha ~= alpha or L.guard ~= s[5] or L.shares ~= s[6] or L.stated == 0
    or is_tuned ~= (L.tuner ~= '') or L.order ~= s[12]
  if reordered then L.alpha, L.stated_alpha, L.tuner = alpha, alpha, is_tuned and '0' or '' end
  L.guard, L.stated = s[5], stated
  set_capacity(L, s[2], tonumber(s[10]))
  if reordered then replace_order(L, function() L.policy, L.shares, L.order = s[3], s[6], s[12] end) end
  set_rates(L, tonumber(s[8]), tonumber(s[9]))
  call('HSET', prefix .. 'line:' .. L.name, 'policy', L.policy, 'alpha', fmt('%.17g', L.alpha), 'guard',
       int(L.guard), 'shares', L.shares, 'stated', int(stated), 'version', int(L.version), 'rated',
       L.rated and 1 or 0, 'stated_alpha', fmt('%.17g', L.stated_alpha), 'tuner', L.tuner, 'order', L.order)
  fill(L)
end
-- ticket: {id, line, agent, weight, waited ticks, state, tick, tokens, run, class, due}, the last three only
-- where they are not the usual ones
local function register_ticket(s)
  local id, state = s[1], s[6]
  call('SREM', prefix .. 'unseen:' .. owner, id)
  local L = get_line(s[2])
  if s[7] > L.tick then L.tick = s[7] end
  local R = read_ticket(id)
  if R and R[OWNER] ~= owner then return end
  if state == WAITING then
    if not R or R[STATE] == SUSPENDED then submit_ticket(id, s[2], s[3], s[4], s[5], 0, s[8], s[9], s[10], s[11])
    elseif R[STATE] ~= WAITING then  -- its grant was lost on the way
      report(id, R, {id, R[REASON], L.tick, R[WAITED], R[WAITED], '0', R[WEIGHT], R[WAITED]})
    end
    return
  end
  if not R then
    L.seq = L.seq + 1
    R = {s[2], s[3], s[4], owner, math.max(0, L.tick - s[5]), L.seq, SUSPENDED, -1, L.tick, s[5], 'score', '', s[8]}
    add_facts(L, R, s[9], s[10], s[11])
    call('SADD', prefix .. 'own:' .. owner, id)
    charge(L, R)
  elseif R[STATE] == WAITING then
    charge(L, R)
    dequeue(L, id, R)
    R[STATE] = SUSPENDED
  end
  if state == SUSPENDED then
    write_ticket(id, R)
    suspend_ticket(id, 0, 0)
  else
    -- A lease that exists is counted, above the capacity if it must be.
    if R[STATE] == SUSPENDED then hold(L, id, R) end
    write_ticket(id, R)
  end
end
-- {'sync', part, last, known epoch, answered number, statements, repeated, tickets, host, spent, learnt}. `repeated`:
-- operations that the process has sent and that were not answered. `spent`: {line, requests, tokens} that it granted by
-- itself, and that its bucket has not refilled; a sync whose answer was lost takes them once more, which delays grants.
-- `learnt`: {line, limit, refused level} of adaptive limits, as the process has heard of them last.
local function synchronize(o, last_number)
  local own, unseen = prefix .. 'own:' .. owner, prefix .. 'unseen:' .. owner
  if o[2] == 1 then
    call('DEL', prefix .. 'wake:' .. owner, unseen)
    forget_reports(owner)
    if o[4] ~= '' and (o[4] ~= epoch or last_number < o[5]) then record_loss() end
    call('HSET', HOSTS, owner, o[9])
    for _, statement in ipairs(o[6]) do apply_statement(statement) end
    for _, it in ipairs(o[11]) do restore_limit(get_line(it[1]), it[2], tonumber(it[3])) end
    for _, repeated in ipairs(o[7]) do apply_operation(repeated) end
    if lost_until <= now then  -- else the buckets are empty
      for _, it in ipairs(o[10]) do take_rates(get_line(it[1]), it[2], it[3]) end
    end
    if call('EXISTS', own) == 1 then call('SUNIONSTORE', unseen, own) end
  end
  for _, ticket in ipairs(o[8]) do register_ticket(ticket) end
  if o[3] == 1 then
    for _, id in ipairs(call('SMEMBERS', unseen)) do end_ticket(id, 0, 0, 0) end
    call('DEL', unseen)
  end
end
-- The batch: its number shows whether it is new, was applied already, or follows one that was lost.
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
  if not known or number > last_number + 1 then status = 'sync' elseif number <= last_number then status = 'again' end
elseif number <= last_number then status = 'again' end

-- No process came for half a lease time, so the server stood still, or all did: each must have time to renew.
local others = call('ZCARD', PROCESSES) - (known and 1 or 0)
if seen > 0 and others > 0 and now - seen > ttl / 2 then start_learning() end
call('HSET', config, 'seen', int(now))
if not learning then bury_expired() end

if status == 'ok' then
  call('ZADD', PROCESSES, now + ttl, owner)
  call('SET', number_key(owner), int(number) .. ':' .. generation, 'PX', NUMBER_KEPT_MS)
  for _, o in ipairs(operations) do
    local kind = o[1]
    if kind == 'state' then apply_statement(o[2])
    elseif kind == 'sync' then synchronize(o, last_number)
    elseif kind == 'beat' then for _, name in ipairs(call('SMEMBERS', LINES)) do fill(get_line(name)) end
    elseif kind == 'leave' then leave_process()
    else apply_operation(o) end
  end
elseif status == 'again' then
  for _, id in ipairs(call('SMEMBERS', prefix .. 'own:' .. owner)) do
    local R = read_ticket(id)
    if R and (R[STATE] == HELD or R[STATE] == SHARED) then
      granted[#granted + 1] = {id, R[REASON], get_line(R[LINE]).tick, R[WAITED], R[WAITED], '0', R[WEIGHT], R[WAITED]}
    end
  end
end
-- The reply: {now, status, epoch, granted, lines, due, expiry, processes}. `granted`: {id, reason, tick, ticks of this
-- wait, ticks of all its waits, score, weight and age of its queue}. `lines`: {name, limit, used, waiting, tick, stated,
-- policy, alpha, guard, requests, tokens, gate, auto, pause, tuned, order}: of a rate its number and level, of a closed gate its time, its
-- cause and whether this process comes at that time, of an adaptive limit (-1 is unlimited) its ceiling, the level that was
-- refused last and whether one ever was, of a pause its end and the header that states it, of an alpha that adapts the one
-- that was stated, and the order as it is stated. `due`: when to send the next beat whatever the gates, 0 for never. `expiry`: of
-- the process that is silent longest.

-- When a gate opens one process comes, so that not all do: the one that had waiters when the time was first known. The
-- others come a little later, in case it does not.
local ALARM_TOLERANCE_MS = 20
local function has_alarm(L, due)
  local at, holder = string.match(L.alarm, '^(%d+)|(.*)$')
  local is_set = at and math.abs(at - due) <= ALARM_TOLERANCE_MS and call('ZSCORE', PROCESSES, holder)
  if is_set and (holder ~= owner or has_waiters) then return holder == owner end
  L.alarm = has_waiters and due .. '|' .. owner or ''
  return has_waiters
end
local function show_rate(B) return B and {fmt('%.17g', B.rate), fmt('%.17g', compute_level(B))} or {} end
local function show_gate(L)
  local due, cause = string.match(L.gate, '^(%d+)|(.*)$')
  return due and {tonumber(due), cause, has_alarm(L, due)} or {}
end
local function show_auto(A)
  return A and {fmt('%.17g', A.ceiling), fmt('%.17g', A.refused), A.decreased_at > -math.huge} or {}
end
local function show_pause(L)
  return L.paused > seconds and {math.floor(L.paused * 1000) + 1, L.pause_header} or {}
end
local shown = {}
for _, L in ipairs(loaded) do
  if not L.gone then
    share_slots(L)
    exempt_waiter(L)
    local rates = read_rates(L)
    shown[#shown + 1] = {L.name, L.limit == math.huge and -1 or L.limit, L.used, L.waiting, L.tick, L.stated, L.policy, fmt('%.17g', L.alpha), L.guard,
                         show_rate(rates.requests), show_rate(rates.tokens), show_gate(L), show_auto(read_auto(L)), show_pause(L),
                         L.tuner ~= '' and fmt('%.17g', L.stated_alpha) or '', L.order}
    tenants.save(L)
    levels.save(L)
    classes.save(L)
    save_line(L, policies[L.policy].format)
    save_auto(L)
    save_rates(L)
  end
end
save_tickets()
for other, list in pairs(wakes) do
  -- With the generation of its last sync: what was decided before that is out of date.
  local g = string.match(call('GET', number_key(other)) or '', ':(.*)$') or '0'
  call('RPUSH', prefix .. 'wake:' .. other, g .. '|' .. cjson.encode(list))
  call('PEXPIRE', prefix .. 'wake:' .. other, ttl * 2)
end
local oldest = call('ZRANGE', PROCESSES, 0, 0, 'WITHSCORES')
return cjson.encode({now, status, epoch, granted, shown, learning and learning_until + 1 or 0,
                     tonumber(oldest[2] or '0'), call('ZCARD', PROCESSES)})
