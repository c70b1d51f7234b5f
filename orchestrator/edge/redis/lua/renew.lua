-- renew: prolong one member's lease and say whether its round still stands.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- returns    standing | waiting | lapsed | restoring | superseded | restart | closed
--            waiting with due_ms 0: a seat is ready, ask for it

local function renew()
  if is('closed') then return closed() end
  if not known() then return fate() end
  prolong()
  if waits() then return place() end
  if seated() and claim.round < num('round') then
    return waiting(0, num('size'), 0)
  end
  return fate()
end

tick()
return finish(renew())
