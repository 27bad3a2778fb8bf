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
  if R[CLASS_CHARGED] == L.order_version then return end
  R[RUN], R[CHARGED_AT], R[CLASS], R[DUE] = R[RUN] or '', R[CHARGED_AT] or 0, find_class(R), R[DUE] or -1
  R[CLASS_CHARGED] = L.order_version
  local class = R[CLASS]
  if get_rule(L, class).is_strict then return end
  local P = get_accounts(L)
  fair.charge(P, int(class), int(class), R[WEIGHT])
  if fair.read_account(P, int(class)).competes then update_class(L, class, true) end
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
end)
