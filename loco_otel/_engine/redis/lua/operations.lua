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
