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
local stored = call('HMGET', config, 'epoch', 'learning', 'seen', 'lost', 'seq')
local epoch = stored[1]
local learning_until, seen = tonumber(stored[2] or '0'), tonumber(stored[3] or '0')
local lost_until = tonumber(stored[4] or '0')  -- of processes that report the same loss, the first has reported it
local last_seq = tonumber(stored[5] or '0')  -- of the tickets of all lines
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
  -- and of other lists of arguments; even, as these are pairs
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
    flush(1000)
  end
  flush(0)
end

-- Functions that few steps need, as fields of a table that are created on the first use of one of them: to create a
-- function costs as much as a command.
local makers = {}
local UNDEFINED = {__index = function(functions, name)
  setmetatable(functions, nil)
  makers[functions]()
  return functions[name]
end}
local function define_later(functions, make)
  makers[functions] = make
  setmetatable(functions, UNDEFINED)
end

-- A scope: the queues that one policy orders, and what it stores of them. `virtual` and `open` are of `fair`, `origin`
-- and `last` of `las`.
local NO_STATE = '0|0|0|0'
local function make_scope(L, suffix, state)
  local virtual, open, origin, last = string.match(state or NO_STATE, '^([^|]+)|([^|]+)|([^|]+)|(.+)$')
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

-- A line: the waiters for one resource, and this resource: its slots, rates and adaptive limit. Or the waiters for a set
-- of resources, whose names are its name: such a wide line has no slots of its own. `pools` of a line are the lines of its
-- resources. `contest` of a resource lists the wide lines that compete for it, and what is reserved for one line: the next
-- free slot, a request and tokens. A resource without wide lines has none, and its line is alone.
local lines, loaded, contest = {}, {}, {}
local FIELDS = {'limit', 'policy', 'alpha', 'guard', 'shares', 'stated', 'version', 'tick', 'contest', 'waiting', 'order',
                'state', 'rated', 'gate', 'alarm', 'auto', 'pause', 'stated_alpha', 'tuner',
                'is_tenanted', 'is_classed', 'is_dated', 'order_version'}
local function get_line(name)
  local L = lines[name]
  if L then return L end
  local h = call('HMGET', prefix .. 'line:' .. name, unpack(FIELDS))
  local function num(i) return tonumber(h[i] or '0') end
  L = {name = name, key = #name .. ':' .. name, suffix = '', limit = num(1), policy = h[2] or 'load', alpha = tonumber(h[3] or '0.25'), guard = num(4),
       shares = h[5] or '', stated = num(6), version = num(7), tick = num(8), waiting = num(10),
       order = h[11] or '', rated = h[13] == '1', gate = h[14] or '', alarm = h[15] or '',
       auto_text = h[16] or '', paused = tonumber(string.match(h[17] or '', '^[^|]+') or '0'),
       pause_header = string.match(h[17] or '', '|(.*)$') or '', stated_alpha = tonumber(h[18] or '0.25'),
       tuner = h[19] or '', is_tenanted = h[20] == '1', scopes = {},
       is_classed = h[21] == '1', is_dated = h[22] == '1', order_version = num(23), levels = {},
       rates_key = base .. 'rates:' .. name,
       held = prefix .. 'held:' .. name, shared = prefix .. 'shared:' .. name,
       weights = prefix .. 'weights:' .. name, blocked = prefix .. 'blocked:' .. name}
  -- A key that continues after the name has its length before it: any name may contain what separates the two.
  L.ages, L.waiters = prefix .. 'ages:' .. L.key, prefix .. 'waiters:' .. L.key .. ':'
  L.stored = h
  L.line = L  -- it is the level of the class `normal`, too
  L.scope = make_scope(L, '', h[12])
  lines[name] = L
  loaded[#loaded + 1] = L
  if string.find(name, '\t', 1, true) then
    L.is_wide, L.limit, L.used, L.pools = true, math.huge, 0, {}
    for single in string.gmatch(name, '[^\t]+') do L.pools[#L.pools + 1] = get_line(single) end
    if not h[2] then contest.join(L) end
    return L
  end
  -- The set of leases is the count: nothing else could stay right when an operation is repeated.
  L.pools, L.used, L.is_alone = {L}, call('ZCARD', L.held), not h[9]
  if h[9] then L.contest = cjson.decode(h[9]) end
  return L
end
-- Writes what has changed.
local function save_line(L, format)
  if format then save_accounts(L.scope, format) end
  local h, texts, P = L.stored, {}, L.scope
  local function note_number(i, number) if number ~= tonumber(h[i] or '0') then texts[FIELDS[i]] = int(number) end end
  local function note_flag(i, flag) if flag ~= (h[i] == '1') then texts[FIELDS[i]] = flag and '1' or '0' end end
  note_number(7, L.version)
  note_number(8, L.tick)
  if L.contest_changed then texts.contest = cjson.encode(L.contest) end
  note_number(10, L.waiting)
  -- Most policies have no state, and to format four numbers costs as much as two commands.
  if h[12] and h[12] ~= NO_STATE or P.virtual ~= 0 or P.open ~= 0 or P.origin ~= 0 or P.last ~= 0 then
    texts.state = format_state(P)
  end
  if L.gate ~= (h[14] or '') then texts.gate = L.gate end
  if L.alarm ~= (h[15] or '') then texts.alarm = L.alarm end
  note_flag(20, L.is_tenanted)
  note_flag(21, L.is_classed)
  note_flag(22, L.is_dated)
  note_number(23, L.order_version)
  write_fields(prefix .. 'line:' .. L.name, texts)
end

-- A ticket's record is a JSON array with these positions. That of most ends with TOKENS. SINCE is when its wait began, WAITED
-- are the ticks of its waits before, and from its grant on those of all. LENDER are the leases that own the slots that it
-- shares, by resource, or ''.


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
local function find_class(R) return R[16] or 1 end
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

-- The tables of functions of the parts that follow.
local rates, limits, load, fair, las, tenants, levels = {}, {}, {}, {}, {}, {}, {}
local classes, reordering, tuner, sharing, processes, syncs, shows = {}, {}, {}, {}, {}, {}, {}

-- All that follows is one function, which captures each local of the above once. A function in the same function as a local
-- that it captures costs a search of all that are captured there. Lua allows 60 captured locals for each function.
return (function()
-- Rates per minute, as _core/token_bucket.py: the same operations on the same numbers, with the server's time in
-- seconds. The buckets have a key of their own, outside the epoch: after the last process has left, what it spent counts
-- until the buckets are full again.
local seconds = now / 1000
local function take_rates(L, requests, tokens)
  if L.rated then rates.take(L, requests, tokens) end
  if L.is_wide then
    for _, P in ipairs(L.pools) do take_rates(P, requests, tokens) end
  end
end
-- Returns whether rates and pauses allow a ticket; if not, also `due|cause|resource`: when they will, and which of them
-- delays it. While so much is reserved for another line that only its grant allows the ticket, `due` is `inf`.
local function is_open(L, R)
  if not L.is_wide and not L.rated and L.paused == 0 then return true end
  return rates.find_gate(L, R)
end
define_later(rates, function()
local NO_TIME = -math.huge
local function parse_bucket(text)
  local rate, level, at = string.match(text or '', '^([^|]+)|([^|]+)|(.+)$')
  return rate and {rate = tonumber(rate), level = tonumber(level), at = tonumber(at)}
end
function rates.read(L)
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
function rates.save(L)
  write_bucket(L, 'requests')
  write_bucket(L, 'tokens')
  L.spent = false
end
function rates.compute_level(B)
  return math.min(B.rate, B.level + math.max(0, seconds - B.at) * B.rate / 60)
end
-- `reserved` stays in the bucket for another line.
local function compute_available_at(B, amount, reserved)
  if not B then return NO_TIME end
  local needed = math.min(amount, B.rate)
  if reserved > 0 then
    needed = needed + math.min(reserved, B.rate)
    if needed > B.rate then return math.huge end
  end
  local missing = needed - rates.compute_level(B)
  return missing <= 0 and seconds or seconds + missing * 60 / B.rate
end
local function take_tokens(L, B, amount)
  if not B or amount == 0 then return end
  B.level, B.at = math.min(B.rate, rates.compute_level(B) - amount), seconds
  L.spent = true
end
-- Negative amounts are returned.
function rates.take(L, requests, tokens)
  local buckets = rates.read(L)
  take_tokens(L, buckets.requests, requests)
  take_tokens(L, buckets.tokens, tokens)
end
-- Returns when the rates and the pause of one resource allow a ticket of a line, and what delays it.
local function compute_open_time(P, L, R)
  local buckets, requests, tokens = rates.read(P), 0, 0
  if P.contest and P.contest.tokens and P.contest.tokens_for ~= L.name then requests, tokens = 1, P.contest.tokens end
  local requests_at = compute_available_at(buckets.requests, 1, requests)
  local tokens_at = compute_available_at(buckets.tokens, R[13] or 0, tokens)
  local at = math.max(requests_at, tokens_at)
  if P.paused >= at then return P.paused, 'backoff' end
  return at, tokens_at >= requests_at and 'tokens' or 'requests'
end
-- See `is_open`.
function rates.find_gate(L, R)
  local last, cause, resource = seconds, nil, nil
  for _, P in ipairs(L.pools) do
    if P.rated or P.paused ~= 0 then
      local at, reason = compute_open_time(P, L, R)
      if at > last then last, cause, resource = at, reason, P.name end
    end
  end
  if not cause then return true end
  return false, (last == math.huge and 'inf' or int(math.floor(last * 1000) + 1)) .. '|' .. cause .. '|' .. resource
end
-- 0 is no limit. A rate that stays keeps its bucket; another one starts with a full bucket, and after a loss, in which
-- nobody knows what was spent, with an empty one.
function rates.set(L, requests, tokens)
  if L.spent then rates.save(L) end
  L.rated, L.rates = true, nil  -- a line that is new has no rates yet, but its bucket may be there
  local buckets = rates.read(L)
  for kind, rate in pairs({requests = requests, tokens = tokens}) do
    local B = buckets[kind]
    if rate == 0 then buckets[kind] = nil
    elseif not B or B.rate ~= rate then
      buckets[kind] = {rate = rate, level = lost_until > now and 0 or rate, at = seconds}
    end
  end
  L.rated, L.spent = requests > 0 or tokens > 0, true
  if not L.rated then
    for _, rival in ipairs(contest.list_lines({L})) do rival.gate = '' end
  end
  rates.save(L)
  call('PERSIST', L.rates_key)
end
function rates.empty(L)
  for _, B in pairs(rates.read(L)) do
    B.level, B.at = math.min(0, rates.compute_level(B)), seconds
    L.spent = true
  end
end
-- Keeps the buckets until they would be full.
function rates.expire(L)
  if L.spent then rates.save(L) end
  local longest = 0
  for _, B in pairs(rates.read(L)) do longest = math.max(longest, (B.rate - rates.compute_level(B)) * 60000 / B.rate) end
  call('PEXPIRE', L.rates_key, int(math.ceil(longest)))
end
end)
-- The limit that adapts to the provider's refusals, as _core/adaptive_limit.py, and the pauses that the provider asks for.
-- Time is in seconds. `auto` of a line has these fields; a line with a fixed capacity has none, and is never paused.
local function read_auto(L)
  if not L.auto and L.auto_text ~= '' then limits.parse(L) end
  return L.auto
end
define_later(limits, function()
local AUTO_FIELDS = {'limit', 'ceiling', 'refused', 'decreased_at', 'successes', 'required', 'not_before', 'probing'}

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
  A.required = wrong and math.min(128, 2 * math.max(A.required, level)) or level
  A.not_before = wrong and seconds + 20 * pause or seconds
  A.refused, A.limit, A.decreased_at, A.successes, A.probing = level, math.max(1, math.floor(level / 2)), seconds, 0, 0
  change_auto(L)
end
-- The provider has refused a call, or stated that the next one would be: it pauses the line for all processes.
function limits.throttle_ticket(id, pause, header, is_refused)
  local R = read_ticket(id)
  if not R or (R[7] ~= 1 and R[7] ~= 3) then return end
  for _, P in ipairs(get_line(R[1]).pools) do
    if read_auto(P) then
      local granted_at = call('ZSCORE', R[12] ~= '' and R[12][P.name] and P.shared or P.held, id) / 1000
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
-- Policy `load`, as _core/policies/load.py: a sorted set of agents by birth for each distinct weight; `tops` has these
-- weights by the birth of the oldest agent, `loads` by themselves. `agents` holds weight|birth|member of each agent that
-- waits.
load.is_metered = false
define_later(load, function()
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
end)
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
fair.is_metered = true
define_later(fair, function()

function fair.read_account(P, key)
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
  elseif call('ZCARD', P.idle) > 1000 then
    advance_virtual(P, tonumber(call('ZRANGE', P.idle, 0, 0, 'WITHSCORES')[2]))
  end
end
function fair.position(head) return fmt('%015.0f%015.0f', head.birth, head.seq) end
function fair.update(P, key, _, head)
  local A = fair.read_account(P, key)
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
    if not granted and string.sub(A.member, 2, 31) == fair.position(head) then return end
    call('ZREM', P.tags, A.member)
    owing = granted or string.sub(A.member, 1, 1) == '1'
  else
    owing = A.tag > P.virtual
    activate(P, key, A)
    A.competes = true
  end
  A.is_granted = false
  A.member = (owing and '1' or '0') .. fair.position(head) .. key
  call('ZADD', P.tags, int(A.tag), A.member)
  write_account(P, key, A)
end
function fair.pick(P)
  local r = call('ZRANGE', P.tags, 0, 0, 'WITHSCORES')
  return string.sub(r[1], 32), (P.virtual - tonumber(r[2])) / 1000000
end
function fair.score(P, key) return (P.virtual - fair.read_account(P, key).tag) / 1000000 end
function fair.find_share(P, agent) return P.shares and P.shares[string.match(agent, '[^\31]*$')] or 1000 end
local function compute_increment(P, agent, weight)
  return P.shares and math.ceil(weight * 1000000 / fair.find_share(P, agent)) or weight * 1000
end
function fair.charge(P, key, agent, weight)
  local A = fair.read_account(P, key)
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
  local A = fair.read_account(P, key)
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
end)
-- Policy `las`, as _core/policies/las.py: the same operations on the same doubles, with the server's time in seconds.
-- `agents` holds attained|open calls|position of each account, `tags` the queues that compete by attained service: equal
-- ones are in the order of their members, which begin with the position of the head. `idle` holds the accounts without
-- waiters and open calls by the time since which they are silent.
las.is_metered, las.is_dated = true, true
define_later(las, function()

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
    if is_kept and call('ZCARD', P.idle) <= 10000 then break end
    call('ZREM', P.idle, r[1])
    remove_account(P, r[1])
  end
  local steps = divide(seconds - P.origin, 512 * P.half_life)
  if steps <= 0 then return end
  P.origin = P.origin + steps * 512 * P.half_life
  P.last = math.max(P.last, P.origin)
  save_accounts(P, las.format)
  for _, key in ipairs(call('HKEYS', P.agents)) do
    local A = read_service(P, key)
    A.attained = A.attained * 2 ^ (-512 * steps)
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
-- Scopes, and tenants as _core/policies/tenants.py: `fair` among tenants, and the policy among the queues of each. A level
-- has one scope, and from the first waiter that names a tenant on one for each tenant. Requests without a tenant are of the
-- tenant with the empty name.
local policies, read_order, prepare_scope, find_tenant, get_scope, pick_scope
do
policies = {load = load, fair = fair, las = las, fifo = fifo}

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
function find_tenant(key)
  local at = string.find(key, '\31', 1, true)
  return at and string.sub(key, 1, at - 1) or ''
end
-- Returns the scope of a queue.
function get_scope(L, key)
  if L.is_tenanted then return tenants.get_scope(L, find_tenant(key)) end
  return L.scope.is_ready and L.scope or prepare_scope(L, L.scope)
end
-- Returns the scope that is served next, and its tenant.
function pick_scope(L)
  if not L.is_tenanted then return get_scope(L, ''), '' end
  local tenant = fair.pick(tenants.get_order(L))
  return get_scope(L, tenant .. '\31'), tenant
end
define_later(tenants, function()
-- Tenants without an account whose policy still has history, as `las` has; the first has been idle longest.
local function dormant_key(L) return prefix .. 'dormant:' .. L.key end
local function forget_tenant(L, tenant)
  call('HDEL', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\31' .. tenant)
  L.scopes[tenant] = nil
end
function tenants.get_order(L)
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
function tenants.get_scope(L, tenant)
  local P = L.scopes[tenant]
  if P then return P end
  local state = call('HGET', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\31' .. tenant)
  P = prepare_scope(L, make_scope(L, '\31' .. tenant, state or nil))
  L.scopes[tenant] = P
  return P
end
function tenants.wake_tenant(L, tenant)
  if L.policy == 'las' then call('ZREM', dormant_key(L), tenant) end
end
local function remove_dormant(L)
  if L.policy ~= 'las' then return end
  while true do
    local tenant = call('ZRANGE', dormant_key(L), 0, 0)[1]
    if not tenant then return end
    local P = tenants.get_scope(L, tenant)
    las.remove_silent(P)
    if call('ZCARD', P.idle) > 0 and call('ZCARD', dormant_key(L)) <= 1000 then return end
    las.clear(P)
    call('ZREM', dormant_key(L), tenant)
    forget_tenant(L, tenant)
  end
end
-- After a change of a queue of the tenant.
function tenants.update(L, tenant)
  local first = call('ZRANGE', tenants.get_scope(L, tenant).ages, 0, 0, 'WITHSCORES')
  if #first == 0 then return fair.update(tenants.get_order(L), tenant, 0, nil) end
  local head = {birth = tonumber(first[2]), seq = tonumber(string.sub(first[1], 1, 15))}
  fair.update(tenants.get_order(L), tenant, 0, head)
end
function tenants.charge(L, R, key)
  remove_dormant(L)
  local tenant, policy = find_tenant(key), policies[L.policy]
  tenants.wake_tenant(L, tenant)
  if policy.is_metered then policy.charge(tenants.get_scope(L, tenant), key, R[2], R[3]) end
  fair.charge(tenants.get_order(L), tenant, tenant, R[3])
end
function tenants.settle(L, R, key, correction)
  local tenant, policy = find_tenant(key), policies[L.policy]
  if policy.is_metered then
    policy.settle(tenants.get_scope(L, tenant), key, R[2], correction, R[15])
  end
  fair.settle(tenants.get_order(L), tenant, tenant, correction)
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
function tenants.clear_scopes(L)
  for _, P in ipairs(tenants.list_scopes(L)) do
    policies[L.policy].clear(P)
    if L.is_tenanted then call('DEL', P.ages) end
  end
  if L.is_tenanted then
    for tenant in pairs(L.scopes) do forget_tenant(L, tenant) end
    fair.clear(tenants.get_order(L))
    call('DEL', dormant_key(L))
    call('HDEL', prefix .. 'line:' .. L.name, 'state' .. L.suffix .. '\30')
  end
  L.is_tenanted, L.scopes, L.among, L.scope = false, {}, false, make_scope(L, '')
end
function tenants.save(L)
  local states = {['state' .. L.suffix .. '\30'] = format_state(tenants.get_order(L))}
  save_accounts(L.among, fair.format)
  for tenant, P in pairs(L.scopes) do
    save_accounts(P, policies[L.policy].format)
    states['state' .. L.suffix .. '\31' .. tenant] = format_state(P)
  end
  write_fields(prefix .. 'line:' .. L.name, states)
end
end)
end
-- Levels: the waiters of one class of urgency, as _core/priority_level.py. A line is the level of the class `normal`. From
-- the first request of another class on there are two more, which read all but their own from the line.
local get_level
local MEMBERS = {'is_tenanted', 'version', 'state'}
function get_level(L, class)
  if class == 1 or not L.is_classed then return L end
  local V = L.levels[class]
  if V then return V end
  local suffix = '\29' .. class
  local h = call('HMGET', prefix .. 'line:' .. L.name, MEMBERS[1] .. suffix, MEMBERS[2] .. suffix, MEMBERS[3] .. suffix)
  V = setmetatable({key = L.key .. suffix, suffix = suffix, ages = prefix .. 'ages:' .. L.key .. suffix, scopes = {},
                    is_tenanted = h[1] == '1', version = tonumber(h[2] or '0')}, {__index = L})
  V.among = false
  V.scope = make_scope(V, '', h[3] or nil)
  L.levels[class] = V
  return V
end
define_later(levels, function()
function levels.list(L)
  if not L.is_classed then return {L} end
  return {get_level(L, 0), L, get_level(L, 2)}
end
function levels.save(L)
  for class, V in pairs(L.levels) do
    if V.is_tenanted then tenants.save(V) end
    if policies[L.policy].format then save_accounts(V.scope, policies[L.policy].format) end
    local s = V.suffix
    call('HSET', prefix .. 'line:' .. L.name, MEMBERS[1] .. s, V.is_tenanted and 1 or 0, MEMBERS[2] .. s, int(V.version),
         MEMBERS[3] .. s, format_state(V.scope))
  end
end
-- The waiters of a scope that have a deadline, the earliest first.
local function due_key(V, tenant) return prefix .. 'due:' .. V.key .. '\31' .. tenant end
function levels.add_due(L, V, R, member)
  if (R[17] or -1) < 0 then return end
  L.is_dated = true
  call('ZADD', due_key(V, find_tenant(R[2])), int(R[17]), member)
end
function levels.remove_due(V, R, member)
  if (R[17] or -1) >= 0 then call('ZREM', due_key(V, find_tenant(R[2])), member) end
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
end)
-- The order between classes of urgency, as _core/priority_order.py: strict ones first, and `fair` between the others. The
-- slots of the classes that are not normal are in sets; of the normal ones are the rest.
define_later(classes, function()
local CLASSES = {{8000, false, -1, 1}, {4000, false, -1, 1}, {1000, false, -1, 0.9}}
local function get_rule(L, class)
  local rule = (read_order(L).classes or CLASSES)[class + 1]
  return {share = rule[1], is_strict = rule[2], slots = rule[3], fraction = rule[4]}
end
local function slots_key(L, class) return prefix .. 'slots:' .. L.key .. ':' .. int(class) end
function classes.count_slots(L, class)
  if class ~= 1 then return call('SCARD', slots_key(L, class)) end
  return L.used - call('SCARD', slots_key(L, 0)) - call('SCARD', slots_key(L, 2))
end
function classes.is_pool_capped(L, class)
  local rule = get_rule(L, class)
  local ceiling = rule.slots >= 0 and rule.slots or math.huge
  if rule.fraction < 1 and L.limit ~= math.huge then
    ceiling = math.min(ceiling, math.max(1, math.floor(L.limit * rule.fraction)))
  end
  return ceiling ~= math.huge and classes.count_slots(L, class) >= ceiling
end
-- Returns whether a class holds as many slots as it may of one of the resources.
function classes.is_capped(L, class)
  for _, P in ipairs(L.pools) do if classes.is_pool_capped(P, class) then return true end end
  return false
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
  for class = 0, 2 do
    if not get_rule(L, class).is_strict then update_class(L, class, competes(L, class)) end
  end
end
-- Returns the level to be served next; nil if all waiters are of classes that hold as many slots as they may.
function classes.pick(L)
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
  if classes.is_capped(L, find_class(R)) then return true end
  for class = 0, 2 do if competes(L, class) then return true end end
  return false
end
-- A class is charged for what has waited alone.
function classes.charge(L, R)
  if R[18] == L.order_version then return end
  R[14], R[15], R[16], R[17] = R[14] or '', R[15] or 0, find_class(R), R[17] or -1
  R[18] = L.order_version
  local class = R[16]
  if get_rule(L, class).is_strict then return end
  local P = get_accounts(L)
  fair.charge(P, int(class), int(class), R[3])
  if fair.read_account(P, int(class)).competes then update_class(L, class, true) end
end
function classes.settle(L, R, correction)
  if L.is_classed and R[18] == L.order_version then
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
end)
-- The queues of waiters: one for each agent, by which grants are reported. The policy orders them, or with `by_run` those
-- of the runs, which it has apart.
local find_key, compute_score, enqueue, dequeue
do

-- Returns the key of the queue that the policy orders.
function find_key(L, R)
  if (R[14] or '') == '' or read_order(L).by_run ~= 1 then return R[2] end
  return find_tenant(R[2]) .. '\31' .. R[14] .. '\31run'
end
function compute_score(L, R)
  local key = find_key(L, R)
  return policies[L.policy].score(get_scope(get_level(L, find_class(R)), key), key)
end
local function add_to_queue(waiters, weights, key, R, member)
  call('ZADD', waiters .. key, int(R[5]), member)
  return call('HINCRBY', weights, key, int(R[3]))
end
-- Returns the head and the weight of what is left.
local function remove_from_queue(waiters, weights, key, R, member)
  call('ZREM', waiters .. key, member)
  local head = find_head(waiters, key)
  if head then return head, call('HINCRBY', weights, key, int(-R[3])) end
  call('HDEL', weights, key)
  return nil, 0
end
local function update_queue(L, P, key, weight, head)
  policies[L.policy].update(P, key, weight, head)
  if L.is_tenanted then tenants.update(L, find_tenant(key)) end
end
define_later(reordering, function()
-- Puts all waiters into the queues and scopes in force.
function reordering.fill_scopes(L)
  local members, keys = call('ZRANGE', L.ages, 0, -1), {}
  for _, member in ipairs(members) do
    if L.is_tenanted or get_scope(L, '').is_apart then
      local R = read_ticket(string.sub(member, 16))
      local key = find_key(L, R)
      local P = get_scope(L, key)
      if P.is_apart then add_to_queue(P.waiters, P.weights, key, R, member) end
      if L.is_tenanted then call('ZADD', P.ages, int(R[5]), member) end
    end
  end
  local weights = call('HGETALL', get_scope(L, '').weights)
  for i = 1, #weights, 2 do
    local P = get_scope(L, weights[i])
    update_queue(L, P, weights[i], tonumber(weights[i + 1]), find_head(P.waiters, weights[i]))
  end
end
function reordering.empty_scopes(L)
  local P = get_scope(L, '')
  if P.is_apart then
    for _, key in ipairs(call('HKEYS', P.weights)) do call('DEL', P.waiters .. key) end
    call('DEL', P.weights)
  end
  tenants.clear_scopes(L)
  L.version = L.version + 1
end
local function names_tenant(L)
  if not L.is_classed then
    for _, key in ipairs(call('HKEYS', L.weights)) do if find_tenant(key) ~= '' then return true end end
    return false
  end
  for _, member in ipairs(call('ZRANGE', L.ages, 0, -1)) do
    if find_tenant(read_ticket(string.sub(member, 16))[2]) ~= '' then return true end
  end
  return false
end
-- Orders all waiters of some lines again: `change` replaces what those of one were ordered by.
function reordering.replace_orders(reordered, change)
  for _, L in ipairs(reordered) do
    for _, V in ipairs(levels.list(L)) do reordering.empty_scopes(V) end
    classes.clear(L)
  end
  for _, L in ipairs(reordered) do
    change(L)
    L.facts = nil
    L.is_classed = L.is_classed or classes.has_ceiling(L, 1)
  end
  for _, L in ipairs(reordered) do
    for _, V in ipairs(levels.list(L)) do
      V.is_tenanted, V.scope.is_ready = names_tenant(V), nil
      reordering.fill_scopes(V)
    end
    if L.is_classed then classes.update(L) end
  end
end
-- Orders by class from now on: the queues by agent hold waiters of all classes, so the policy gets queues apart.
function reordering.enable_classes(L)
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
end)
function enqueue(L, id, R)
  local V, key, member = get_level(L, find_class(R)), find_key(L, R), fmt('%015.0f', R[6]) .. id
  call('ZADD', V.ages, int(R[5]), member)
  L.waiting, L.oldest = L.waiting + 1, nil
  local weight = add_to_queue(L.waiters, L.weights, R[2], R, member)
  if R[17] then levels.add_due(L, V, R, member) end
  if not V.is_tenanted and find_tenant(R[2]) ~= '' then
    reordering.empty_scopes(V)
    V.is_tenanted = true
    reordering.fill_scopes(V)
    if L.is_classed then classes.update(L) end
    return
  end
  local P = get_scope(V, key)
  if P.is_apart then weight = add_to_queue(P.waiters, P.weights, key, R, member) end
  if V.is_tenanted then
    tenants.wake_tenant(V, find_tenant(key))
    call('ZADD', P.ages, int(R[5]), member)
  end
  update_queue(V, P, key, weight, find_head(P.waiters, key))
  if L.is_classed then classes.update(L) end
end
-- Returns the weight that its agent's other waiters have.
function dequeue(L, id, R)
  local V, key, member = get_level(L, find_class(R)), find_key(L, R), fmt('%015.0f', R[6]) .. id
  local P = get_scope(V, key)
  call('ZREM', V.ages, member)
  if V.is_tenanted then call('ZREM', P.ages, member) end
  if R[17] then levels.remove_due(V, R, member) end
  L.waiting, L.oldest = L.waiting - 1, nil
  if L.waiting == 0 then L.gate = '' end
  if not L.is_alone then contest.unreserve(L) end
  local head, left = remove_from_queue(L.waiters, L.weights, R[2], R, member)
  local weight = left
  if P.is_apart then head, weight = remove_from_queue(P.waiters, P.weights, key, R, member) end
  update_queue(V, P, key, weight, head)
  if L.is_classed then classes.update(L) end
  return left
end
end
-- Adaptive alpha of policy `load`, as _core/alpha_tuner.py. `tuner` of a line is the tick of the next update, and what the
-- last updates have seen: tick, weight and number of all that waited. It is empty where alpha is constant.
-- Each of these resources has a slot more.
local function advance_ticks(pools)
  for _, L in ipairs(pools[1].is_alone and pools or contest.list_lines(pools)) do
    L.tick = L.tick + 1
    if L.tuner ~= '' then tuner.tune_alpha(L) end
  end
end
define_later(tuner, function()
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
function tuner.tune_alpha(L)
  if L.tick < tonumber(string.match(L.tuner, '^%d+')) then return end
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
end)
-- What happens to tickets: submit, grant, suspend, end. A step grants while there is room.
local granted, wakes, learning, report, charge, count_sharers, hold, grant, reject_overdue, fill, end_ticket,
  suspend_ticket, add_facts, submit_ticket
do
granted, wakes = {}, {}
learning = learning_until > now

function report(id, R, answer)
  if R[4] == owner then granted[#granted + 1] = answer
  else
    local list = wakes[R[4]]
    if not list then list = {}; wakes[R[4]] = list end
    list[#list + 1] = answer
  end
end
function charge(L, R)
  local policy, V = policies[L.policy], get_level(L, find_class(R))
  if not (policy.is_metered or V.is_tenanted) or R[8] == V.version then return end
  R[8] = V.version
  if policy.is_dated then R[14], R[15] = R[14] or '', seconds end
  local key = find_key(L, R)
  if V.is_tenanted then tenants.charge(V, R, key) else policy.charge(get_scope(V, key), key, R[2], R[3]) end
end
local function settle(L, R, correction)
  local V = get_level(L, find_class(R))
  if R[8] == V.version then
    local key = find_key(L, R)
    if V.is_tenanted then tenants.settle(V, R, key, correction)
    else policies[L.policy].settle(get_scope(V, key), key, R[2], correction, R[15]) end
  end
  if R[16] then classes.settle(L, R, correction) end
end
function count_sharers(L)
  L.sharers = L.sharers or call('ZCARD', L.shared)
  return L.sharers
end
-- `lenders` is nil, or has the lease that owns the slot of each resource in which this one shares it.
function hold(pools, id, R, lenders)
  R[7], R[12] = lenders and 3 or 1, lenders or ''
  for _, P in ipairs(pools) do
    if lenders and lenders[P.name] then P.sharers = count_sharers(P) + call('ZADD', P.shared, now, id)
    else
      if R[16] then classes.add_slot(P, id, R) end
      call('ZADD', P.held, now, id)
      P.used = P.used + 1
    end
  end
end
-- Grants a ticket. `head` is that of its agent's queue if the ticket waits, nil if it is new.
function grant(L, id, R, reason, score, head, lenders)
  local queued = head or (L.waiting > 0 and find_head(L.waiters, R[2]))
  local weight, age = R[3], L.tick - (queued and queued.birth or R[5])
  if queued and not head then weight = tonumber(call('HGET', L.weights, R[2])) end
  charge(L, R)
  if head and L.is_classed then classes.charge(L, R) end
  take_rates(L, 1, R[13] or 0)
  if head then weight = weight + dequeue(L, id, R) end
  local ticks = L.tick - R[5]
  -- After a loss of state the ticks before may be more.
  local before = math.min(R[10], ticks)
  R[10], R[11] = ticks, reason
  hold(L.pools, id, R, lenders)
  write_ticket(id, R)
  report(id, R, {id, reason, L.tick, ticks - before, ticks, fmt('%.17g', score), weight, age, R[12]})
end
-- Ends a wait whose deadline has passed, and that its process has not ended yet. Returns whether it has passed.
function reject_overdue(L, id, R)
  if (R[17] or -1) < 0 or R[17] > now then return false end
  dequeue(L, id, R)
  settle(L, R, 0)
  write_ticket(id, false)
  call('SREM', prefix .. 'own:' .. R[4], id)
  report(id, R, {id, 'late'})
  return true
end
function fill(L)
  if learning then return end
  if not L.is_alone then return contest.fill(L.pools) end
  while L.waiting > 0 and L.used < L.limit do
    local V = L
    if L.is_classed then V = classes.pick(L) end
    if not V then return end
    local id, reason, score, head = levels.select_next(L, V)
    local R = read_ticket(id)
    local opened, gate = is_open(L, R)
    L.gate = gate or ''
    if not opened then return end
    if not reject_overdue(L, id, R) then
      grant(L, id, R, reason, score or compute_score(L, R), head or find_head(L.waiters, R[2]))
    end
  end
end

-- Ends a lease. A slot that another lease shares passes to it; at the other resources a slot is free, and a tick passes.
local function free_slots(L, id, R)
  local freed = {}
  for _, P in ipairs(L.pools) do
    if R[12] ~= '' and R[12][P.name] then P.sharers = count_sharers(P) - call('ZREM', P.shared, id)
    elseif call('ZREM', P.held, id) == 1 then
      if R[16] then classes.remove_slot(P, id, R) end
      P.used = P.used - 1
      if count_sharers(P) == 0 or not sharing.pass_slot(P, id) then freed[#freed + 1] = P end
    end
  end
  if #freed > 0 then advance_ticks(freed) end
end
-- `requests` and `tokens` are what it takes of the rates beyond its estimate; of a lease alone, as a waiter took nothing.
-- `succeeded`: whether the call ended well, by which an adaptive limit grows.
function end_ticket(id, correction, requests, tokens, succeeded)
  local R = read_ticket(id)
  if not R then return end
  local L, state = get_line(R[1]), R[7]
  if state == 1 or state == 3 then
    take_rates(L, requests, tokens)
    for _, P in ipairs(L.pools) do if succeeded == 1 and read_auto(P) then limits.record_success(P) end end
  end
  write_ticket(id, false)
  call('SREM', prefix .. 'own:' .. R[4], id)
  if state == 0 then dequeue(L, id, R) end
  settle(L, R, correction)
  if state == 1 or state == 3 then free_slots(L, id, R) end
  if state ~= 2 then fill(L) end
end
function suspend_ticket(id, requests, tokens)
  local R = read_ticket(id)
  if not R or (R[7] ~= 1 and R[7] ~= 3) then return end
  local L = get_line(R[1])
  take_rates(L, requests, tokens)
  free_slots(L, id, R)
  R[7], R[12] = 2, ''
  write_ticket(id, R)
  fill(L)
end
-- What most tickets do not have: a run, another class than `normal`, ms until its deadline; -1 is none.
function add_facts(L, R, run, class, due)
  if not class then return end
  R[14], R[15], R[16], R[17] = run, R[15] or 0, class, due < 0 and -1 or now + due
  R[18] = R[18] or -1
  if class ~= 1 then reordering.enable_classes(L) end
end
-- Returns whether a new ticket has to wait: no slot is free, or others wait.
local function must_queue(L, R)
  local has_room = L.used < L.limit
  if not L.is_alone then has_room = contest.has_room(L) end
  if not has_room then return true end
  if L.is_classed then return classes.must_queue(L, R) end
  return L.waiting > 0
end
-- A new ticket, or a suspended one that returns, with the ticks that it waited before. One that may not wait is refused
-- if it is not granted at once.
function submit_ticket(id, name, agent, weight, waited, immediate, tokens, run, class, due)
  local is_new = call('SADD', prefix .. 'own:' .. owner, id) == 1
  local R = not is_new and read_ticket(id)
  if R and R[7] ~= 2 then return end
  local L = get_line(name)
  if not R then
    last_seq = last_seq + 1
    R = {name, agent, weight, owner, 0, last_seq, 0, -1, 0, waited, '', '', tokens}
  end
  add_facts(L, R, run, class, due)
  R[7], R[9], R[5] = 0, now, math.max(0, L.tick - R[10])
  if not learning and not must_queue(L, R) and is_open(L, R) then
    return grant(L, id, R, 'free', 0, nil)
  end
  if immediate == 1 then
    -- One that returns from a pause stays suspended, until its process ends it.
    R[7] = 2
    if is_new then call('SREM', prefix .. 'own:' .. owner, id) end
    granted[#granted + 1] = {id, 'full'}
    return
  end
  write_ticket(id, R)
  enqueue(L, id, R)
  -- Without rates and pauses it waits for a slot, whose release fills.
  if L.is_alone or contest.is_gated(L) then fill(L) end
end
end
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
    P.contest.tokens_for, P.contest.tokens, P.contest_changed = L.name, R[13] or 0, true
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
  L.oldest.since = read_ticket(L.oldest.id)[9]
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
      grant(L, id, R, turn.reason, turn.score or compute_score(L, R), turn.head or find_head(L.waiters, R[2]))
    end
    -- Where no guard fired, none fires now, as no slot has become free.
    if #overdue > 0 then overdue = list_overdue(pools) end
  end
end
end)
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
    if R and R[7] == 0 then
      local L = get_line(R[1])
      local candidate = {-compute_score(L, R), R[5], R[6]}
      if not rank or precedes(candidate, rank) then best, rank, line = id, candidate, L end
    end
  end
  if not best or total ~= P.used + count_sharers(P) then return end
  local lenders, R = find_lenders(line, best), read_ticket(best)
  if not lenders then return end
  local opened, gate = is_open(line, R)
  line.gate = gate or ''
  if opened then
    grant(line, best, R, 'reentrant', -rank[1], find_head(line.waiters, R[2]), next(lenders) and lenders)
  end
end
-- Passes the slot of a lease that ends to the first one that shares it, and returns whether there is one.
function sharing.pass_slot(P, id)
  local heir
  for _, other in ipairs(call('ZRANGE', P.shared, 0, -1)) do
    local S = read_ticket(other)
    if S[12] ~= '' and S[12][P.name] == id then
      S[12][P.name] = heir
      if not heir then
        heir = other
        P.sharers = P.sharers - call('ZREM', P.shared, other)
        hold({P}, other, S, next(S[12]) and S[12])
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
      if not waiter and R and R[7] == 0 then waiter = id end
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
      local L, is_stuck = get_line(R[1]), true
      for _, other in ipairs(L.pools) do
        if other ~= P and classes.is_pool_capped(other, class) then
          is_stuck = is_stuck and find_stuck(other, class, call('HGETALL', capped_key(other)))
        end
      end
      if is_stuck and contest.has_room(L) and is_open(L, R) then
        grant(L, id, R, 'score', compute_score(L, R), find_head(L.waiters, R[2]))
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
-- Leases belong to processes: each step of a process renews all that it has. A process that is silent for its lease
-- time loses its tickets. PROCESSES has the end of its lease time, and once it has lost the first of them BURIED. After a
-- loss of state nothing is granted and no process is buried until each had time to register its leases again.
local has_roster_changed, is_deleted = false, false
local function number_key(process) return prefix .. 'number:' .. process end
local BURIED = '-1'  -- a time that has passed; 0 would be no expiry in a reply
define_later(processes, function()


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
  for _, id in ipairs(call('SRANDMEMBER', prefix .. 'own:' .. process, 200)) do
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
  local names = call('ZRANGEBYSCORE', LINES, '-inf', now - 3600000, 'LIMIT', 0, 100)
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
-- What happens to one ticket, as a process sends it.
local function apply_operation(o)
  local kind = o[1]
  if kind == 'submit' then submit_ticket(o[2], o[3], o[4], o[5], o[6], o[7], o[8], o[9], o[10], o[11])
  elseif kind == 'end' then end_ticket(o[2], o[3], o[4], o[5], o[6])
  elseif kind == 'suspend' then suspend_ticket(o[2], o[3], o[4])
  elseif kind == 'refuse' then limits.throttle_ticket(o[2], o[3], o[4], true)
  elseif kind == 'pause' then limits.throttle_ticket(o[2], o[3], o[4], false)
  elseif kind == 'blocked' then sharing.report_blocked(o[2], o[3], o[4], o[5])
  elseif kind == 'capped' then sharing.report_capped(o[2], o[3], o[4], o[5])
  end
end
-- A sync registers all that a process has, in parts, the leases first. What the process states (capacity, policy,
-- guard, shares) travels with it and is in force before its tickets are.
-- statement: {name, limit, policy, alpha, guard, shares, stated, requests and tokens per minute, ceiling, auto_tune, order};
-- a limit below 0 adapts to the provider up to the ceiling, and `order` is what else decides the order, see statements.py.
-- A statement that was never made before is made now; one that is older than that in force is ignored.
define_later(syncs, function()
-- Returns the answer that repeats the grant of a lease.
function syncs.describe_lease(id, R)
  return {id, R[11], get_line(R[1]).tick, R[10], R[10], '0', R[3], R[10], R[12]}
end
local function apply_limits(s)
  local L = get_line(s[1])
  local stated = s[7] == 0 and math.max(now, L.stated + 1) or s[7]
  call('ZADD', LINES, now, L.name)
  if stated <= L.stated then return nil end
  -- Another capacity alone changes no order.
  L.is_reordered = L.policy ~= s[3] or L.stated_alpha ~= tonumber(s[4]) or L.guard ~= s[5] or L.shares ~= s[6]
    or L.stated == 0 or (s[11] == 1) ~= (L.tuner ~= '') or L.order ~= s[12]
  L.stated = stated
  limits.set_capacity(L, s[2], tonumber(s[10]))
  rates.set(L, tonumber(s[8]), tonumber(s[9]))
  call('HSET', prefix .. 'line:' .. L.name, 'stated', int(stated), 'rated', L.rated and 1 or 0)
  return L
end
-- What is stated together is in force together. The order of a wide line is that of its first resource.
function syncs.apply_statements(statements)
  local changed, reordered, sources = {}, {}, {}
  for _, s in ipairs(statements) do
    local L = apply_limits(s)
    if L then changed[#changed + 1] = L.name end
    if L and L.is_reordered then
      for _, rival in ipairs(contest.list_lines({L})) do
        if rival.pools[1] == L then
          reordered[#reordered + 1] = rival
          sources[rival] = s
        end
      end
    end
  end
  reordering.replace_orders(reordered, function(L)
    local s = sources[L]
    L.policy, L.alpha, L.stated_alpha, L.guard, L.shares, L.order = s[3], tonumber(s[4]), tonumber(s[4]), s[5], s[6], s[12]
    L.tuner = s[11] == 1 and '0' or ''
  end)
  for _, L in ipairs(reordered) do contest.save_order(L) end
  table.sort(changed)
  for _, name in ipairs(changed) do fill(get_line(name)) end
  processes.remove_unused_lines()
end
-- ticket: {id, line, agent, weight, waited ticks, state, tick, tokens, run, class, due}, the last three only
-- where they are not the usual ones
local function register_ticket(s)
  local id, state = s[1], s[6]
  call('SREM', prefix .. 'unseen:' .. owner, id)
  local L = get_line(s[2])
  if s[7] > L.tick then L.tick = s[7] end
  local R = read_ticket(id)
  if R and R[4] ~= owner then return end
  if state == 0 then
    if not R or R[7] == 2 then submit_ticket(id, s[2], s[3], s[4], s[5], 0, s[8], s[9], s[10], s[11])
    elseif R[7] ~= 0 then  -- its grant was lost on the way
      report(id, R, syncs.describe_lease(id, R))
    end
    return
  end
  if not R then
    last_seq = last_seq + 1
    R = {s[2], s[3], s[4], owner, math.max(0, L.tick - s[5]), last_seq, 2, -1, now, s[5], 'score', '', s[8]}
    add_facts(L, R, s[9], s[10], s[11])
    call('SADD', prefix .. 'own:' .. owner, id)
    charge(L, R)
  elseif R[7] == 0 then
    charge(L, R)
    dequeue(L, id, R)
    R[7] = 2
  end
  if state == 2 then
    write_ticket(id, R)
    suspend_ticket(id, 0, 0)
  else
    -- A lease that exists is counted, above the capacity if it must be.
    if R[7] == 2 then hold(L.pools, id, R) end
    write_ticket(id, R)
  end
end
-- {'sync', part, last, known epoch, answered number, statements, repeated, tickets, host, spent, learnt}. `repeated`:
-- operations that the process has sent and that were not answered. `spent`: {line, requests, tokens} that it granted by
-- itself, and that its bucket has not refilled; a sync whose answer was lost takes them once more, which delays grants.
-- `learnt`: {line, limit, refused level} of adaptive limits, as the process has heard of them last.
function syncs.synchronize(o, last_number)
  local own, unseen = prefix .. 'own:' .. owner, prefix .. 'unseen:' .. owner
  if o[2] == 1 then
    call('DEL', unseen)
    sharing.forget_reports(owner)
    if o[4] ~= '' and (o[4] ~= epoch or last_number < o[5]) then processes.record_loss() end
    call('HSET', HOSTS, owner, o[9])
    syncs.apply_statements(o[6])
    for _, it in ipairs(o[11]) do limits.restore(get_line(it[1]), it[2], tonumber(it[3])) end
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
end)

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
  call('SET', number_key(owner), int(number) .. ':' .. generation, 'PX', 3600000)
  for _, o in ipairs(operations) do
    local kind = o[1]
    if kind == 'state' then syncs.apply_statements(o[2])
    elseif kind == 'sync' then syncs.synchronize(o, last_number)
    elseif kind == 'beat' then
      local names, named = o[2], {}
      for i, name in ipairs(names) do named[2 * i - 1], named[2 * i] = now, name end
      for i = 1, #named, 1000 do
        call('ZADD', LINES, unpack(named, i, math.min(i + 1000 - 1, #named)))
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
    if R and (R[7] == 1 or R[7] == 3) then
      granted[#granted + 1] = syncs.describe_lease(id, R)
    end
  end
end
-- The reply: {now, status, epoch, granted, lines, due, expiry, processes}. `granted`: {id, reason, tick, ticks of this
-- wait, ticks of all its waits, score, weight and age of its queue, lenders}. `lines`: {name, limit, used, waiting, tick,
-- stated, policy, alpha, guard, requests, tokens, gate, auto, pause, tuned, order}: of a rate its number and level, of a
-- closed gate its time (-1 if only the grant of another line opens it), its cause, whether this process comes at that time
-- and the resource, of an adaptive limit (-1 is unlimited) its ceiling, the level that was refused last and whether one ever
-- was, of a pause its end and the header that states it, of an alpha that adapts the one that was stated, and the order as
-- it is stated. `due`: when to send the next beat whatever the gates, 0 for never. `expiry`: of the process that is silent
-- longest.

define_later(shows, function()
-- When a gate opens one process comes, so that not all do: the one that had waiters when the time was first known. The
-- others come a little later, in case it does not.

local function has_alarm(L, due)
  local at, holder = string.match(L.alarm, '^(%d+)|(.*)$')
  local is_set = at and math.abs(at - due) <= 20 and call('ZSCORE', PROCESSES, holder)
  if is_set and (holder ~= owner or has_waiters) then return holder == owner end
  L.alarm = has_waiters and due .. '|' .. owner or ''
  return has_waiters
end
function shows.rate(B) return {fmt('%.17g', B.rate), fmt('%.17g', rates.compute_level(B))} end
function shows.gate(L)
  local due, cause, resource = string.match(L.gate, '^(%w+)|(%w+)|(.*)$')
  if due == 'inf' then return {-1, cause, false, resource} end
  return {tonumber(due), cause, has_alarm(L, due), resource}
end
function shows.auto(A) return {fmt('%.17g', A.ceiling), fmt('%.17g', A.refused), A.decreased_at > -math.huge} end
end)
local shown, none = {}, {}
if is_deleted then loaded = {} end
for _, P in ipairs(loaded) do
  if P.contest or (P.is_alone and P.waiting > 0) then
    sharing.share_slots(P)
    if P.contest or P.is_classed then sharing.exempt_waiter(P) end
  end
end
for _, L in ipairs(loaded) do
  local auto, requests, tokens = read_auto(L), none, none
  if L.rated then
    local buckets = rates.read(L)
    requests, tokens = buckets.requests and shows.rate(buckets.requests), buckets.tokens and shows.rate(buckets.tokens)
  end
  shown[#shown + 1] = {L.name, L.limit == math.huge and -1 or L.limit, L.used, L.waiting, L.tick, L.stated, L.policy,
                       fmt('%.17g', L.alpha), L.guard, requests or none, tokens or none, L.gate ~= '' and shows.gate(L) or none,
                       auto and shows.auto(auto) or none,
                       L.paused > seconds and {math.floor(L.paused * 1000) + 1, L.pause_header} or none,
                       L.tuner ~= '' and fmt('%.17g', L.stated_alpha) or '', L.order}
  if L.is_tenanted then tenants.save(L) end
  if L.is_classed then
    levels.save(L)
    classes.save(L)
  end
  save_line(L, policies[L.policy].format)
  if L.auto_changed then limits.save(L) end
  if L.spent then rates.save(L) end
end
if not is_deleted then
  if last_seq == tonumber(stored[5]) then call('HSET', config, 'seen', int(now))
  else call('HSET', config, 'seen', int(now), 'seq', int(last_seq)) end
end
save_tickets()
for other, list in pairs(wakes) do
  -- To the list of its last sync: an older one may be read by a connection that is cut, and nobody reads the reply.
  local g = string.match(call('GET', number_key(other)) or '', ':(.*)$') or '0'
  local wake = prefix .. 'wake:' .. other .. ':' .. g
  call('RPUSH', wake, cjson.encode(list))
  call('PEXPIRE', wake, ttl * 2)
end
-- Usually the processes are those of the start of the step, of which this one was renewed since.
local count, expiry = others + 1, silent[2]
if silent[1] == owner then expiry = silent[4] end
if known and status == 'ok' and not has_roster_changed then expiry = math.min(tonumber(expiry or now + ttl), now + ttl)
else
  expiry = tonumber(call('ZRANGE', PROCESSES, 0, 0, 'WITHSCORES')[2] or '0')
  count = call('ZCARD', PROCESSES)
end
return cjson.encode({now, status, epoch, granted, shown, learning and learning_until + 1 or 0, expiry, count})
end)()
