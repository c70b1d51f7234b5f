-- job: what was published of a run: its job, and the rules that commands of each of its groups have to bring.
--
-- KEYS       all keys of any group of the run, see lib/
-- ARGV[1-20] the caller; neither claim nor rules are looked at
-- returns    {"job", digest, job JSON, {role, rules JSON, ...}} | {"unpublished"}

local function published()
  local fields, roles = call('HGETALL', JOB), {}
  for i = 1, #fields, 2 do
    local role = fields[i]:match('^role:(.*)$')
    if role then roles[#roles + 1], roles[#roles + 2] = role, fields[i + 1] end
  end
  if #roles == 0 then return {'unpublished'} end
  return {'job', call('HGET', JOB, 'digest'), call('HGET', JOB, 'job'), roles}
end

return published()
