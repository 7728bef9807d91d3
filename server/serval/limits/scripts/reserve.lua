-- Ledger.reserve: reserve everything requested, or nothing.
local id, cost, optional, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- Empty: no such limit.
local per_minute, tokens_per_minute = tonumber(ARGV[5]), tonumber(ARGV[6])
local concurrent, tokens_per_day = tonumber(ARGV[7]), tonumber(ARGV[8])
local lease_ms = tonumber(ARGV[9])
local now, unix_ms = moment(ARGV[10], ARGV[11])
local day = math.floor(unix_ms / DAY_MS)
local next_day_ms = (day + 1) * DAY_MS - unix_ms + 1

-- Abandon reservations that were not renewed. Nothing is written unless there are some: a full Redis refuses
-- only a script's first write.
repeat
  local expired = redis.call('ZRANGEBYSCORE', OPEN, '-inf', whole(now), 'LIMIT', 0, 1000)
  if #expired > 0 then
    redis.call('ZREM', OPEN, unpack(expired))
    redis.call('HDEL', RESERVATIONS, unpack(expired))
    redis.call('ZREMRANGEBYSCORE', RUNNING, '-inf', whole(now))
  end
until #expired < 1000

local function used_today()
  return tonumber(redis.call('HGET', DAYS, whole(day))) or 0
end

-- The part of the day's use that open reservations hold, and may give back.
local function reserved_today()
  local total = 0
  for _, reservation in ipairs(redis.call('HVALS', RESERVATIONS)) do
    local held, counted_day = unpacked(reservation)
    if counted_day == whole(day) then
      total = total + held
    end
  end
  return total
end

if tokens_per_day then
  cost = math.max(cost - optional, math.min(cost, tokens_per_day - used_today()))
end
local requests, tokens = read_buckets(now)
local refused, wait = '', 0
if per_minute then
  drain(requests, now)
  requests.limit = per_minute
  local request_wait = wait_ms(requests, count)
  if request_wait > wait then
    refused, wait = 'requests', request_wait
  end
end
if tokens_per_minute then
  drain(tokens, now)
  tokens.limit = tokens_per_minute
  local token_wait = wait_ms(tokens, cost)
  if token_wait > wait then
    refused, wait = 'tokens', token_wait
  end
end
if wait < RUNNING_WAIT_MS and concurrent and redis.call('ZCARD', RUNNING) + count > concurrent then
  refused, wait = 'concurrency', RUNNING_WAIT_MS
end
if tokens_per_day and used_today() + cost > tokens_per_day then
  if used_today() - reserved_today() + cost > tokens_per_day then
    refused, wait = 'budget', next_day_ms
  elseif wait < RUNNING_WAIT_MS then
    refused, wait = 'budget_reserved', RUNNING_WAIT_MS
  end
end

if refused == '' then
  local request_mark, token_mark, counted_day = '-', '-', '-'
  if tokens_per_day then
    counted_day = whole(day)
    if redis.call('HEXISTS', DAYS, counted_day) == 0 then
      -- A new day: keep those around it, because the clock may be set.
      for _, other in ipairs(redis.call('HKEYS', DAYS)) do
        if math.abs(tonumber(other) - day) > 1 then
          redis.call('HDEL', DAYS, other)
        end
      end
    end
    add_to_day(day, cost)
  end
  if per_minute then
    request_mark = whole(debit(requests, count))
  end
  if tokens_per_minute then
    token_mark = whole(debit(tokens, cost))
  end
  redis.call('ZADD', OPEN, whole(now + lease_ms), id)
  redis.call('HSET', RESERVATIONS, id, packed(cost, counted_day, request_mark, token_mark, count))
  if concurrent then
    for number = 1, count do
      redis.call('ZADD', RUNNING, whole(now + lease_ms), member(id, number))
    end
  end
  keep_reservations(lease_ms)
end
if per_minute or tokens_per_minute then
  write_buckets(requests, tokens, lease_ms)
end

local answer = {refused, wait, 0, 0, 0, 0, false, false}
if per_minute then
  answer[3], answer[4] = left(requests), reset_ms(requests)
end
if tokens_per_minute then
  answer[5], answer[6] = left(tokens), reset_ms(tokens)
end
if tokens_per_day then
  answer[7], answer[8] = math.max(0, tokens_per_day - used_today()), next_day_ms
end
return answer
