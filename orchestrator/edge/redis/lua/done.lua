-- done: all workers of the caller's slot succeeded. The last slot to say so closes the run, or has it repeated.
--
-- KEYS       all keys of the group, see lib.lua
-- ARGV[1-16] the caller, its claim and the group's rules, see lib.lua
-- ARGV[17]   repeat 0|1 (restart=always)    ARGV[18] delay_ms before it
-- ARGV[19]   budget_max (-1: no bound)    ARGV[20] budget_per_ms (0: the whole run)
-- returns    standing (others are not done) | closed | restart | superseded | lapsed

local again, delay_ms = ARGV[17] == '1', number(ARGV[18], 0, 'delay_ms')
local budget_max, budget_per_ms = number(ARGV[19], -1, 'budget_max'), number(ARGV[20], 0, 'budget_per_ms')

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
if fate()[1] == 'standing' then
  call('SADD', DONE, name)
  if call('SCARD', DONE) >= num('size') then all_done() end
  progress()
end
return finish(fate())
