-- done: all workers of the caller's slot succeeded, or failed in a way that is ignored. The last slot to say so closes the
-- run, or has it repeated.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   repeat 0|1 (restart=always)    ARGV[22] delay_ms before it
-- ARGV[23]   budget_max (-1: no bound)    ARGV[24] budget_per_ms (0: the whole run)    ARGV[25] workers that failed and are ignored
-- returns    standing (others are not done) | closed | restart | superseded | lapsed | restoring (restore the seat first)

local again, delay_ms = ARGV[21] == '1', number(ARGV[22], 0, 'delay_ms')
local budget = {max = number(ARGV[23], -1, 'budget_max'), per_ms = number(ARGV[24], 0, 'budget_per_ms'), rule = ''}
local ignored = number(ARGV[25], 0, 'ignored')

local function how()
  local count = num('ignored')
  if count == 0 then return 'all workers succeeded' end
  if count >= num('world') then return 'all workers failed, which restart.rules ignore' end
  return 'all workers succeeded but ' .. count .. ', whose failures restart.rules ignore'
end

local function all_done()
  if not again then return close('succeeded', 0, how(), '') end
  local round = get('round')
  local remaining = charge(round, budget)
  if not remaining then
    return close('succeeded', 0, how() .. '; restart.budget is spent (' .. budget.max .. ' restarts)', '')
  end
  set('consecutive', 0)
  restart('retry', delay_ms, remaining, how(), '', 'repeat', round)
end

tick()
local found = fate()
if found[1] == 'standing' or found[1] == 'restoring' and found[3] == 1 then
  if write('SADD', DONE, name) == 1 and ignored > 0 then set('ignored', num('ignored') + ignored) end
  if is('settled') and call('SCARD', DONE) >= num('size') then all_done() end
  progress()
end
return finish(fate())
