-- fail: a worker failed in the claimed round. One decision per round: the most severe before the next settle wins.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-17] the caller, its claim and the group's rules, see lib/
-- ARGV[18]   action: fatal | retry | retry_free    ARGV[19] delay_ms    ARGV[20] consecutive (if it is charged)
-- ARGV[21]   budget_max (-1: no bound)    ARGV[22] budget_per_ms (0: the whole run)
-- ARGV[23]   reason, for people    ARGV[24] cause, JSON
-- returns    restart | closed | superseded | lapsed | restoring (restore the seat first)

local SEVERITY = {retry_free = 1, retry = 2, fatal = 3}
local action, delay_ms, consecutive = ARGV[18], number(ARGV[19], 0, 'delay_ms'), number(ARGV[20], 0, 'consecutive')
local budget_max, budget_per_ms = number(ARGV[21], -1, 'budget_max'), number(ARGV[22], 0, 'budget_per_ms')
local reason, cause = text(ARGV[23], 1024, 'reason'), text(ARGV[24], 65536, 'cause')
if not SEVERITY[action] then error('BADARG action is none of fatal, retry, retry_free') end

local function left_of_budget()
  return budget_max < 0 and -1 or math.max(0, budget_max - used(CHARGES, budget_per_ms, spent()))
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
  write('ZREM', FREE, get('round')) -- a milder verdict of this round had been taken from there
  set('consecutive', consecutive)
  restart(action, delay_ms, remaining, reason, cause, 'worker failed')
end

tick()
local found = fate()
local sits = found[1] == 'standing' or found[1] == 'restoring' and found[3] == 1
local decided = found[1] == 'restart' and is('open') and SEVERITY[get('end_action')]
if sits or decided and SEVERITY[action] > decided then
  decide()
  progress()
  found = fate()
end
return finish(found)
