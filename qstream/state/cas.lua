-- Compare and set one state: epochs, version, offsets, then the write and when it expires; all of it or nothing.
--
-- KEYS[1]  the hash
-- ARGV     1 version and 2 writer that the caller expects to find, 3 version and 4 writer to leave there,
--          5 '1' if the fields sent are the whole state, 6 D, 7 E, 8 O: how many names and pairs follow,
--          9 milliseconds after which the hash is deleted, 0 for never,
--          D names to delete, E times epoch:<topic>:<partition>, its value, offset:<topic>:<partition> and the epoch since
--          which that partition has its present log, O pairs offset:<topic>:<partition>, then pairs of fields to set.
-- Reply    {'ok'} | {'stale', field, its value} | {'conflict', version, what} | {'resend', version, writer}

local key = KEYS[1]
local expected, new_version, writer, whole = tonumber(ARGV[1]), ARGV[3], ARGV[4], ARGV[5] == '1'
local first_epoch = 10 + tonumber(ARGV[6])
local first_offset = first_epoch + 4 * tonumber(ARGV[7])
local first_field = first_offset + 2 * tonumber(ARGV[8])

local function integer(text)
  return text and string.match(text, '^%d+$') and tonumber(text) or nil
end

local of_another_log = {}
for i = first_epoch, first_offset - 1, 4 do
  local held = integer(redis.call('HGET', key, ARGV[i]))
  if held and held > tonumber(ARGV[i + 1]) then
    return {'stale', ARGV[i], string.format('%.0f', held)}
  end
  of_another_log[ARGV[i + 2]] = held and held < tonumber(ARGV[i + 3])
end

local head = redis.call('HMGET', key, 'version', 'writer')
local version, last_writer = integer(head[1]) or 0, head[2] or ''
local version_text = string.format('%.0f', version)

-- A write whose reply was lost did happen: its writer's mark holds a digest of all that was written, so it is this write.
if last_writer == writer and version_text == new_version then
  return {'ok'}
end

local offsets = {}
for i = first_offset, first_field - 1, 2 do
  offsets[ARGV[i]] = true
  local held = integer(redis.call('HGET', key, ARGV[i]))
  if held and held > tonumber(ARGV[i + 1]) and not of_another_log[ARGV[i]] then
    return {'conflict', version_text, ARGV[i] .. ' is ' .. string.format('%.0f', held)}
  end
end

-- The stored state is not the one expected. The caller's state still replaces it, sent whole, if it knows every offset
-- that the stored one has seen, and the stored one is either its own (another write whose reply was lost, after which it
-- went on from memory) or not newer (versions only go back, or meet another writer, when Redis has lost data).
if version ~= expected or last_writer ~= ARGV[2] then
  local replaceable = version <= expected
  local last_epoch = string.match(last_writer, '^%d+')
  for i = first_epoch, first_offset - 1, 4 do
    replaceable = replaceable or ARGV[i + 1] == last_epoch
  end
  for _, field in ipairs(redis.call('HKEYS', key)) do
    replaceable = replaceable and (string.sub(field, 1, 7) ~= 'offset:' or offsets[field] ~= nil)
  end
  return {replaceable and 'resend' or 'conflict', version_text, last_writer}
end

-- Set before delete: the first command that a full or read-only Redis refuses leaves the hash as it was.
redis.call('HSET', key, 'version', new_version, 'writer', writer)
local sent = {}
for i = first_epoch, first_offset - 1, 4 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
end
for i = first_offset, #ARGV, 2 do
  redis.call('HSET', key, ARGV[i], ARGV[i + 1])
  sent[ARGV[i]] = true
end
for i = 10, first_epoch - 1 do
  redis.call('HDEL', key, ARGV[i])
end
if whole then
  for _, field in ipairs(redis.call('HKEYS', key)) do
    local prefix = string.sub(field, 1, 2)
    if not sent[field] and (field == 'h' or prefix == 'h:' or prefix == 'a:') then
      redis.call('HDEL', key, field)
    end
  end
end
if ARGV[9] == '0' then
  redis.call('PERSIST', key)
else
  redis.call('PEXPIRE', key, ARGV[9])
end
return {'ok'}
