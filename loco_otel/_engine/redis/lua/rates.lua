-- Rates per minute, as _core/token_bucket.py: the same operations on the same numbers, with the server's time in
-- seconds. The buckets have a key of their own, outside the epoch: after the last process has left, what it spent counts
-- until the buckets are full again.
local seconds = now / 1000
local function take_rates(L, requests, tokens)
  if L.rated then rates.take(L, requests, tokens) end
end
-- Returns whether rates and the provider's pause allow a ticket; if not, also when they will, and which of them delays it.
local function is_open(L, R)
  if not L.rated and L.paused == 0 then return true end
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
local function compute_available_at(B, amount)
  if not B then return NO_TIME end
  local missing = math.min(amount, B.rate) - rates.compute_level(B)
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
-- See `is_open`.
function rates.find_gate(L, R)
  local buckets = rates.read(L)
  local requests_at = compute_available_at(buckets.requests, 1)
  local tokens_at = compute_available_at(buckets.tokens, R[TOKENS] or 0)
  local at, cause = math.max(requests_at, tokens_at), tokens_at >= requests_at and 'tokens' or 'requests'
  if L.paused >= at then at, cause = L.paused, 'backoff' end
  if at <= seconds then return true end
  return false, int(math.floor(at * 1000) + 1) .. '|' .. cause
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
  if not L.rated then L.gate = '' end
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
