-- verdict: the fate of the claimed round.
--
-- KEYS       all keys of the group, see lib.lua
-- ARGV[1-16] the caller, its claim and the group's rules, see lib.lua
-- returns    standing | superseded | restart | closed | lapsed

tick()
return finish(fate())
