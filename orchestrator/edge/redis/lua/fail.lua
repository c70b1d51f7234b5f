-- fail: a worker failed in the claimed round. One decision per round: the most severe before the next settle wins.
--
-- KEYS       all keys of the group, see lib.lua
-- ARGV[1-16] the caller, its claim and the group's rules, see lib.lua
-- ARGV[17]   action: fatal | retry | retry_free    ARGV[18] delay_ms    ARGV[19] consecutive (if it is charged)
-- ARGV[20]   budget_max (-1: no bound)    ARGV[21] budget_per_ms (0: the whole run)
-- ARGV[22]   reason, for people    ARGV[23] cause, JSON
-- returns    restart | closed | superseded | lapsed

local SEVERITY = {retry_free = 1, retry = 2, fatal = 3}
local action, delay_ms, consecutive = ARGV[17], number(ARGV[18], 0, 'delay_ms'), number(ARGV[19], 0, 'consecutive')
local budget_max, budget_per_ms = number(ARGV[20], -1, 'budget_max'), number(ARGV[21], 0, 'budget_per_ms')
local reason, cause = text(ARGV[22], 1024, 'reason'), text(ARGV[23], 65536, 'cause')
if not SEVERITY[action] then error('BADARG action is none of fatal, retry, retry_free') end

local function left_of_budget()
  return budget_max < 0 and -1 or math.max(0, budget_max - used(CHARGES, budget_per_ms, num('charged')))
end

local function decide()
  if action == 'fatal' then return close('failed', 1, reason, cause) end
  if action == 'retry_free' then
    return spend_free(reason) and restart(action, delay_ms, left_of_budget(), reason, cause, 'worker failed')
  end
  local remaining = charge(budget_max, budget_per_ms)
  if not remaining then
    local window = budget_per_ms > 0 and ' within ' .. budget_per_ms / 1000 .. ' s' or ''
    return close('failed', 1, 'restart.budget is spent (' .. budget_max .. ' restarts' .. window .. '); ' .. reason, cause)
  end
  call('ZREM', FREE, get('round')) -- a milder verdict of this round had been taken from there
  set('consecutive', consecutive)
  restart(action, delay_ms, remaining, reason, cause, 'worker failed')
end

tick()
local found = fate()
local decided = found[1] == 'restart' and is('open') and SEVERITY[get('end_action')]
if found[1] == 'standing' or decided and SEVERITY[action] > decided then
  decide()
  progress()
  found = fate()
end
return finish(found)
