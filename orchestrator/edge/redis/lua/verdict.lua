-- verdict: the fate of the claimed round.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-17] the caller, its claim and the group's rules, see lib/
-- returns    standing | superseded | restart | closed | lapsed | restoring

tick()
return finish(fate())
