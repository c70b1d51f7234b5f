-- seat: what has become of a join; prolongs the lease of who waits.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- returns    seat | waiting | closed | lapsed (not joined, or no longer: join again)

local function seat()
  if is('closed') then return closed() end
  if known() then prolong() end
  if known() and (seated() or waits()) then return place() end
  return {'lapsed', 'node ' .. name .. ' has not joined the coming round'}
end

tick()
return finish(seat())
