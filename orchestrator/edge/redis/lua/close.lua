-- close: end the run for everyone. The first close wins; later ones learn what it said.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   outcome: succeeded | failed | stopped    ARGV[22] exit_code    ARGV[23] reason    ARGV[24] cause, JSON or ""
-- returns    closed

local outcome, exit_code = ARGV[21], number(ARGV[22], 0, 'exit_code')
local reason, cause = text(ARGV[23], 1024, 'reason'), text(ARGV[24], 65536, 'cause')
if not ({succeeded = 1, failed = 1, stopped = 1})[outcome] then error('BADARG outcome is unknown') end

tick()
if not is('closed') then
  set('charged', math.max(num('charged'), claim.charged)) -- the server may have lost its memory
  close(outcome, exit_code, reason, cause)
end
return finish(closed())
