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
end)
