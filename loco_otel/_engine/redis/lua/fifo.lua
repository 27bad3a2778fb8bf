-- Policy `fifo`, as _core/policies/fifo.py: the oldest of all waiters, which `ages` has in order.
local fifo = {is_metered = false}
function fifo.update() end
function fifo.score() return 0 end
function fifo.clear() end
function fifo.pick(L)
  local id = string.sub(call('ZRANGE', L.ages, 0, 0)[1], 16)
  return read_ticket(id)[AGENT], 0
end
