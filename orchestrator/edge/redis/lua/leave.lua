-- leave: the caller goes, or has died and its guard says so. A name that another agent holds now is not touched.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   why, for people
-- returns    {"left"}

local why = text(ARGV[21], 1024, 'why')

tick()
if is('closed') and known() and write('HDEL', SEATS, name) == 1 and call('HLEN', SEATS) == 0 then emptied() end
if not is('closed') and known() then
  lose({name}, 'node ' .. name .. ' left: ' .. why)
  if is('open') then progress() end
end
return finish({'left'})
