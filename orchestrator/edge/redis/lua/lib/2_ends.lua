-- ends: how rounds and runs end, and the budgets that bound it.

local CLOSED_TTL_MS, EVENTS_KEPT, LEDGER_SHOWN, LEDGER_KEPT, LEDGER_MOST = 86400000, 256, 100, 1000, 10000

-- Tell everyone: members learn what happened from the stream, and from their next renewal if they missed it.
local function announce(reply)
  write('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'reply', cjson.encode(reply))
end

local function closed()
  local r = call('HMGET', GROUP, 'outcome', 'exit_code', 'close_why', 'close_cause')
  return {'closed', r[1], tonumber(r[2]), r[3], r[4], num('charged')}
end

-- Nobody's workers run any more.
local function emptied()
  write('DEL', SEATS, NONCES)
  announce({'emptied'})
end

-- End the run. What only an open group needs goes; its record and its stream tell latecomers for a day. Who sat in the round
-- is known until it has left: only then have its workers ended.
local function close(outcome, exit_code, why, cause)
  local sat = stands()
  set('state', 'closed', 'outcome', outcome, 'exit_code', exit_code, 'close_why', why, 'close_cause', cause)
  write('DEL', LEASES, BIDS, WAITING, ABSENT, BACK, SLOTS, DONE, CHARGES, FREE)
  announce(closed())
  if not sat then emptied() end
  for _, key in ipairs({GROUP, EVENTS, GAPS, JOB, SEATS, NONCES}) do write('PEXPIRE', key, CLOSED_TTL_MS) end
end

-- How many members have said that their workers run, and that they are ready; of the round that stands.
local function ups()
  local round, started, ready = (get('ups') or ''):match('^(%d+):(%d+):(%d+)$')
  if tonumber(round) ~= num('round') then return {0, 0} end
  return {tonumber(started), tonumber(ready)}
end

-- How far the workers of all members have come: 0 settled, 1 running, 2 ready.
local function level()
  local counts, size = ups(), num('size')
  return counts[2] >= size and 2 or counts[1] >= size and 1 or 0
end

-- The numbers of the ledger, see above.
local function head()
  return string.format('%d,%d,%d,%d', num('forgiven'), num('apart'), tonumber(get('stalled') or -1), num('paid'))
end

-- How the last round that ended did so: superseded or restart.
local function ended()
  local r = call('HMGET', GROUP, 'end_kind', 'end_round', 'end_why', 'end_charged', 'end_delay', 'end_until', 'end_left',
    'end_cause', 'end_lost', 'end_id')
  if r[1] == 'superseded' then return {'superseded', tonumber(r[2]), r[3], r[9]} end
  local left = math.max(0, math.min(tonumber(r[5]), tonumber(r[6]) - now))
  return {'restart', tonumber(r[2]), tonumber(r[4]), left, tonumber(r[7]), r[3], r[8], r[10], head()}
end

-- What was charged so far counts against no budget any more: the run was reopened, or has made progress.
local function forgive(charges)
  set('forgiven', charges, 'apart', 0)
  write('DEL', CHARGES)
end

-- How much of a budget is in use: of a rule's own, by what the charges' names end with, or of restart.budget, for which
-- what is known to be spent counts too when it is for the whole run.
local function used(rule, per_ms)
  local since, count = per_ms > 0 and '(' .. now - per_ms or '-inf', 0
  for _, id in ipairs(call('ZRANGEBYSCORE', CHARGES, since, '+inf')) do
    if (id:match('#(%d+)$') or '') == rule then count = count + 1 end
  end
  if rule ~= '' or per_ms > 0 then return count end
  return math.max(count, num('charged') - num('forgiven') - num('apart'))
end

local function left(budget) return budget.max < 0 and -1 or math.max(0, budget.max - used(budget.rule, budget.per_ms)) end

local function free_left()
  if free_max < 0 then return true end
  if free_per_ms > 0 then write('ZREMRANGEBYSCORE', FREE, '-inf', now - free_per_ms) end
  return call('ZCARD', FREE) < free_max
end

-- Take one from the budget of uncharged ends, or close the run: a group that churns for ever helps nobody.
local function spend_free(id, why, cause)
  if free_left() then return free_max < 0 or write('ZADD', FREE, now, id) end
  close('failed', 1, 'restart.free is spent (' .. free_max .. ' uncharged restarts); ' .. why, cause or '')
end

-- Whether the run got further since the last charge, and what follows: budgets that begin anew, or too many restarts in a
-- row that were of no use, which closes it.
local function judge_progress(rules, reason, cause)
  local stalled, grown = tonumber(get('stalled') or -1), num('step') > num('paid')
  stalled = (stalled < 0 or grown) and 0 or stalled + 1
  if rules.max_stalled > 0 and stalled >= rules.max_stalled then
    local reached = num('step') > 0 and ' beyond step ' .. string.format('%d', num('step') - 1) or ''
    return close('failed', 1, stalled .. ' restarts in a row without progress' .. reached .. '; ' .. reason, cause)
  end
  if grown and rules.refill then forgive(num('charged')) end
  return set('stalled', stalled, 'paid', num('step')) or true
end

-- Charge a restart to its budget: what remains (-1: no bound), or nil when nothing was left. What is charged stays so.
local function charge(id, budget)
  if call('ZSCORE', CHARGES, id) then return left(budget) end
  if left(budget) == 0 then return nil end
  set('charged', num('charged') + 1)
  if budget.rule ~= '' then set('apart', num('apart') + 1) end
  write('ZADD', CHARGES, now, id)
  write('ZREMRANGEBYRANK', CHARGES, 0, -math.max(LEDGER_KEPT, math.min(budget.max, LEDGER_MOST)) - 1)
  return left(budget)
end

-- The same for a failure: or close the run.
local function pay(id, budget, progress_rules, reason, cause)
  if not judge_progress(progress_rules, reason, cause) then return nil end
  local remaining = charge(id, budget)
  if remaining then return remaining end
  local window = budget.per_ms > 0 and ' within ' .. budget.per_ms / 1000 .. ' s' or ''
  local whose = budget.rule == '' and 'restart.budget' or 'restart.rules[' .. budget.rule .. '].budget'
  return close('failed', 1, whose .. ' is spent (' .. budget.max .. ' restarts' .. window .. '); ' .. reason, cause)
end

-- The newest charges, for members to carry.
local function ledger()
  local rows, words = call('ZREVRANGE', CHARGES, 0, LEDGER_SHOWN - 1, 'WITHSCORES'), {head()}
  for i = 1, #rows, 2 do words[#words + 1] = rows[i] .. ':' .. string.format('%d', math.max(0, now - tonumber(rows[i + 1]))) end
  return table.concat(words, ' ')
end

-- The caller's claim tells of charges in numbers, and how far its workers got. A step that grows is no change to tell of.
local function heed_charges()
  if claim.forgiven > num('forgiven') then forgive(claim.forgiven) end
  if claim.forgiven == num('forgiven') and claim.apart > num('apart') then set('apart', claim.apart) end
  if claim.charged > num('charged') then set('charged', claim.charged) end
  if claim.step > num('step') then
    record.step = claim.step
    call('HSET', GROUP, 'step', claim.step)
  end
end

-- Unite what is known of charges with what a caller carries; what is charged once stays so, whoever tells of it.
local function learn(carried)
  local forgiven, apart, stalled, paid = carried:match('^(%d+),(%d+),(-?%d+),(%d+)')
  if not forgiven then error('BADARG a ledger without a head') end
  forgiven, apart, stalled, paid = tonumber(forgiven), tonumber(apart), tonumber(stalled), tonumber(paid)
  if forgiven > num('forgiven') then forgive(forgiven) end
  if forgiven == num('forgiven') then -- else it is of before a run was reopened, or had made progress
    for id, age_ms in carried:gmatch(' ([%w/#]+):(%d+)') do write('ZADD', CHARGES, 'NX', now - tonumber(age_ms), id) end
    if apart > num('apart') then set('apart', apart) end
    if paid > num('paid') or paid == num('paid') and stalled > tonumber(get('stalled') or -1) then
      set('paid', paid, 'stalled', stalled)
    end
  end
  local charged = math.max(claim.charged, call('ZCARD', CHARGES) + num('forgiven'))
  if charged > num('charged') then set('charged', charged) end
end

-- End the round that stands; its members that are alive are expected back.
local function open_next(kind, why, next_why)
  write('DEL', ABSENT, BACK, DONE)
  for _, member in ipairs(call('HKEYS', SEATS)) do
    if call('ZSCORE', LEASES, member) then write('SADD', ABSENT, member) end
  end
  write('DEL', SEATS)
  unset('scale_at', 'min_at', 'last_joiner', 'restore_until')
  set('state', 'open', 'end_kind', kind, 'end_round', get('round'), 'end_why', why, 'why', next_why, 'last_join', now)
end

-- End it although nobody failed; `unpaid`: nobody is known to be interrupted by it.
local function supersede(why, lost, unpaid)
  if not stands() or not (unpaid or spend_free(get('round'), why)) then return end
  set('end_lost', table.concat(lost or {}, '\t', 1, math.min(#(lost or {}), 100)))
  open_next('superseded', why, why)
  announce(ended())
end

-- Record the decision to restart; it replaces a milder one of the same round. Whoever calls has paid for it, as ``id``.
local function restart(action, delay_ms, remaining, reason, cause, next_why, id)
  if stands() then open_next('restart', reason, next_why) end
  set('end_action', action, 'end_why', reason, 'end_charged', action == 'retry_free' and 0 or 1, 'end_delay', delay_ms,
    'end_until', now + delay_ms, 'end_left', remaining, 'end_cause', cause, 'end_id', id)
  announce(ended())
end

-- Members are gone. Their slots stay remembered; a round that needed them ends.
local function lose(members, what)
  local lost = {}
  for _, member in ipairs(members) do
    if has_seat(member) and call('SISMEMBER', DONE, member) == 0 then lost[#lost + 1] = member end
    for _, key in ipairs({LEASES, WAITING}) do write('ZREM', key, member) end
    for _, key in ipairs({NONCES, BIDS, SEATS}) do write('HDEL', key, member) end
    write('HDEL', GROUP, 'up:' .. member)
    for _, key in ipairs({ABSENT, BACK}) do write('SREM', key, member) end
  end
  local shown = table.concat(lost, ', ', 1, math.min(#lost, 3)) .. (#lost > 3 and ' and ' .. #lost - 3 .. ' more' or '')
  if #lost > 0 then supersede(what or ('lost node' .. (#lost > 1 and 's ' or ' ') .. shown), lost) end
end
