-- publish: record the job of a run, and the rules of a role, for those who come later. The first job holds for all.
--
-- KEYS       all keys of the group, see lib.lua
-- ARGV[1-16] the caller, its claim and the group's rules, see lib.lua
-- ARGV[17]   role    ARGV[18] digest of the job    ARGV[19] job, JSON; "" to ask first whether it is there
-- ARGV[20]   budget_max (-1: no bound)    ARGV[21] budget_per_ms (0: the whole run)
-- returns    {"published"} | {"unpublished"} (say it again, with the job) | {"differs", job}

local role, digest, job = text(ARGV[17], 255, 'role'), text(ARGV[18], 64, 'digest'), text(ARGV[19], 1048576, 'job')
local rules = {
  lease_ms = lease_ms, ttl_ms = ttl_ms, min = min, max = max, last_call_ms = last_call_ms, scale_up_ms = scale_up_ms,
  free_max = free_max, free_per_ms = free_per_ms,
  budget_max = number(ARGV[20], -1, 'budget_max'), budget_per_ms = number(ARGV[21], 0, 'budget_per_ms'),
}

local function publish()
  local known = call('HGET', JOB, 'digest')
  if is('closed') then return {'published'} end -- whoever comes now is told the outcome, whatever it brings
  if known and known ~= digest then return {'differs', call('HGET', JOB, 'job')} end
  if not known and job == '' then return {'unpublished'} end
  if not known then call('HSET', JOB, 'digest', digest, 'job', job) end
  call('HSET', JOB, 'role:' .. role, cjson.encode(rules))
  call('PEXPIRE', JOB, ttl_ms) -- the group need not be there yet
  return {'published'}
end

tick()
return finish(publish())
