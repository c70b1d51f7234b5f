-- fail: a worker failed in the claimed round. One decision per round: the most severe before the next settle wins.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   action: fatal | exclude_node | retry | retry_free    ARGV[22] delay_ms    ARGV[23] consecutive (if it is charged)
-- ARGV[24]   budget_max (-1: no bound)    ARGV[25] budget_per_ms (0: the whole run)    ARGV[26] the rule whose own budget this
--            is; "": it is restart.budget    ARGV[27] refill 0|1    ARGV[28] max_stalled (0: no bound)
-- ARGV[29]   reason, for people    ARGV[30] cause, JSON
-- returns    restart | closed | superseded | lapsed | restoring (restore the seat first)

local SEVERITY = {retry_free = 1, retry = 2, exclude_node = 3, fatal = 4}
local action, delay_ms, consecutive = ARGV[21], number(ARGV[22], 0, 'delay_ms'), number(ARGV[23], 0, 'consecutive')
local budget = {
  max = number(ARGV[24], -1, 'budget_max'), per_ms = number(ARGV[25], 0, 'budget_per_ms'), rule = text(ARGV[26], 9, 'rule'),
}
local progress_rules = {refill = ARGV[27] == '1', max_stalled = number(ARGV[28], 0, 'max_stalled')}
local reason, cause = text(ARGV[29], 1024, 'reason'), text(ARGV[30], 65536, 'cause')
if not SEVERITY[action] then error('BADARG action is none of fatal, exclude_node, retry, retry_free') end

-- The id of the charge, and what remains; nil if the run had to be closed. A round is charged once: a milder verdict may have.
local function paid()
  if is('open') and get('end_charged') == '1' then return get('end_id'), tonumber(get('end_left')) end
  local id = get('round') .. (budget.rule ~= '' and '#' .. budget.rule or '')
  local remaining = pay(id, budget, progress_rules, reason, cause)
  if not remaining then return nil end
  write('ZREM', FREE, get('round')) -- a milder verdict of this round had been taken from there
  set('consecutive', consecutive)
  return id, remaining
end

local function decide()
  if action == 'fatal' then return close('failed', 1, reason, cause) end
  if action == 'retry_free' then
    local round = get('round')
    return spend_free(round, reason) and restart(action, delay_ms, left(budget), reason, cause, 'worker failed', round)
  end
  local id, remaining = paid()
  if id then restart(action, delay_ms, remaining, reason, cause, 'worker failed', id) end
end

tick()
local found = fate()
local sits = found[1] == 'standing' or found[1] == 'restoring' and found[3] == 1
local decided = found[1] == 'restart' and is('open') and SEVERITY[get('end_action')]
if action == 'exclude_node' and (sits or decided) then keep(excluded_field(), reason) end -- also if another's verdict stands
if sits or decided and SEVERITY[action] > decided then
  decide()
  progress()
  found = fate()
end
return finish(found)
