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
  local tokens_at = compute_available_at(buckets.tokens, R[TOKENS] or 0, tokens)
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
