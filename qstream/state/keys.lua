-- Change the index of the keys that one input partition feeds, and take it over; refused to an owner before the present one.
--
-- KEYS[1]  a hash: the field '' holds the epoch of the present owner, each other field is a key
-- ARGV     1 the caller's epoch, 2 A: how many keys to add follow, A keys, then keys to remove
-- Reply    {'ok'} | {'stale', epoch of the present owner}

local index, epoch, adds = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local held = tonumber(redis.call('HGET', index, '') or '') or 0
if held > epoch then
  return {'stale', string.format('%.0f', held)}
end
if held < epoch then
  redis.call('HSET', index, '', ARGV[1])
end
for i = 3, 2 + adds do
  redis.call('HSET', index, ARGV[i], '')
end
for i = 3 + adds, #ARGV do
  redis.call('HDEL', index, ARGV[i])
end
return {'ok'}
