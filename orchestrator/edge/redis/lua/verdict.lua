-- verdict: the fate of the claimed round; and of the caller's node, if its failure has excluded it.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- returns    {"refused", why} | standing | superseded | restart | closed | lapsed | restoring

tick()
local why = not is('closed') and get(excluded_field())
return finish(why and {'refused', why} or fate())
