-- done: all workers of the caller's slot succeeded. The last slot to say so closes the run, or has it repeated.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-17] the caller, its claim and the group's rules, see lib/
-- ARGV[18]   repeat 0|1 (restart=always)    ARGV[19] delay_ms before it
-- ARGV[20]   budget_max (-1: no bound)    ARGV[21] budget_per_ms (0: the whole run)
-- returns    standing (others are not done) | closed | restart | superseded | lapsed | restoring (restore the seat first)

local again, delay_ms = ARGV[18] == '1', number(ARGV[19], 0, 'delay_ms')
local budget_max, budget_per_ms = number(ARGV[20], -1, 'budget_max'), number(ARGV[21], 0, 'budget_per_ms')

local function all_done()
  if not again then return close('succeeded', 0, 'all workers succeeded', '') end
  local remaining = charge(budget_max, budget_per_ms)
  if not remaining then
    return close('succeeded', 0, 'all workers succeeded; restart.budget is spent (' .. budget_max .. ' restarts)', '')
  end
  set('consecutive', 0)
  restart('retry', delay_ms, remaining, 'all workers succeeded', '', 'repeat')
end

tick()
local found = fate()
if found[1] == 'standing' or found[1] == 'restoring' and found[3] == 1 then
  write('SADD', DONE, name)
  if is('settled') and call('SCARD', DONE) >= num('size') then all_done() end
  progress()
end
return finish(fate())
