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
local MAX_FIELDS = 1000  -- and of other lists of arguments; even, as these are pairs
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

-- The tables of functions of the parts that follow.
local rates, limits, load, fair, las, tenants, levels = {}, {}, {}, {}, {}, {}, {}
local classes, reordering, tuner, sharing, processes, syncs, shows = {}, {}, {}, {}, {}, {}, {}

-- All that follows is one function, which captures each local of the above once. A function in the same function as a local
-- that it captures costs a search of all that are captured there. Lua allows 60 captured locals for each function.
return (function()
