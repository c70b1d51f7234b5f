-- replace: workers of the caller's slot failed, and are to be started again within the round. Asked again, it is the same one.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   part: a local rank | all    ARGV[22] the incarnation to come    ARGV[23] action: retry | retry_free
-- ARGV[24]   budget_max (-1: no bound)    ARGV[25] budget_per_ms (0: the whole run)    ARGV[26] the rule whose own budget this
--            is; "": it is restart.budget    ARGV[27] refill 0|1    ARGV[28] max_stalled (0: no bound)
-- ARGV[29]   delay_ms    ARGV[30] reason, for people    ARGV[31] cause, JSON
-- returns    {"replace", charged 0|1, delay_ms left, remaining (-1: no bound), id of the charge, head of the ledger, see lib/}
--            | closed | restart | superseded | lapsed | restoring (restore the seat first)

local part, incarnation, action = ARGV[21], number(ARGV[22], 1, 'incarnation'), ARGV[23]
local budget = {
  max = number(ARGV[24], -1, 'budget_max'), per_ms = number(ARGV[25], 0, 'budget_per_ms'), rule = text(ARGV[26], 9, 'rule'),
}
local progress_rules = {refill = ARGV[27] == '1', max_stalled = number(ARGV[28], 0, 'max_stalled')}
local delay_ms, reason, cause = number(ARGV[29], 0, 'delay_ms'), text(ARGV[30], 1024, 'reason'), text(ARGV[31], 65536, 'cause')
if not (part:match('^%d+$') or part == 'all') then error('BADARG part is no local rank') end
if action ~= 'retry' and action ~= 'retry_free' then error('BADARG action is none of retry, retry_free') end

local charged = action == 'retry'
local apart = charged and budget.rule ~= '' and '#' .. budget.rule or ''
local id = table.concat({claim.round, claim.slot, part, incarnation}, '/') .. apart

local function replaced()
  local before = call('ZSCORE', charged and CHARGES or FREE, id)
  if not before then
    local paid = charged and pay(id, budget, progress_rules, reason, cause) or not charged and spend_free(id, reason, cause)
    if not paid then return closed() end
  end
  local until_ms = (before and tonumber(before) or now) + delay_ms
  return {'replace', charged and 1 or 0, math.max(0, until_ms - now), left(budget), id, head()}
end

tick()
local found = fate()
if found[1] == 'standing' or found[1] == 'restoring' and found[3] == 1 then found = replaced() end
return finish(found)
