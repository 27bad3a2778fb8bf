-- Policy `fifo`, as _core/policies/fifo.py: the oldest of all waiters, which `ages` has in order.
local fifo = {is_metered = false}
function fifo.update() end
function fifo.score() return 0 end
function fifo.clear() end
-- Returns the ticket itself, and no queue.
function fifo.pick(P)
  return nil, 0, string.sub(call('ZRANGE', P.ages, 0, 0)[1], 16)
end
