// @platformatic/kafka.
import { createInterface } from 'node:readline'
import * as zlib from 'node:zlib'
import {
  Admin, Consumer, Producer, ProduceAcks, stringDeserializers, stringSerializers
} from '@platformatic/kafka'

const base = { clientId: 'platformatic', bootstrapBrokers: [process.argv[2]] }
const lines = createInterface({ input: process.stdin })
const wait = ms => new Promise(resolve => setTimeout(resolve, ms))
const values = (first, last) => Array.from({ length: last - first }, (_, number) => 'v' + (first + number))

function check(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`found ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`.slice(0, 300))
  }
}

async function restart() {
  const answer = new Promise(resolve => lines.once('line', resolve))
  console.log('restart')
  await answer
}

async function until(what, done) {
  for (const end = Date.now() + 90000; !(await done());) {
    if (Date.now() > end) throw new Error(`no ${what} in time`)
    await wait(50)
  }
}

async function using(made, work) {
  try {
    return await work(made)
  } finally {
    await made.close(true)
  }
}

const producer = settings => new Producer({ ...base, serializers: stringSerializers, autocreateTopics: true, ...settings })
const message = (topic, number) => ({
  topic, key: 'k' + number % 5, value: 'v' + number, partition: 0, headers: new Map([['h', 'x']])
})

async function send(topic, first, last, settings = {}) {
  await using(producer(settings), async one => {
    const messages = []
    for (let number = first; number < last; number++) messages.push(message(topic, number))
    await one.send({ messages })
  })
}

async function makeTopic(topic, partitions) {
  await using(new Admin(base), admin => admin.createTopics({ topics: [topic], partitions, replicas: 1 }))
}

async function join(topic, groupId, settings = {}, options = {}) {
  const consumer = new Consumer({ ...base, groupId, deserializers: stringDeserializers, autocommit: false, ...settings })
  const found = []
  const stream = await consumer.consume({ topics: [topic], mode: 'committed', fallbackMode: 'earliest', ...options })
  stream.on('data', one => found.push(one))
  stream.on('error', error => console.error(error))
  return { consumer, found, close: () => consumer.close(true) }
}

async function read(topic, count, settings = {}, options = {}) {
  const reader = await join(topic, 'read-' + topic + Math.random(), settings, options)
  try {
    await until(`${count} records of ${topic}`, () => reader.found.length >= count)
    await wait(300)
    return reader.found
  } finally {
    await reader.close()
  }
}

async function group(name, settings) {
  await makeTopic(name, 4)
  await using(producer(), one => one.send({
    messages: Array.from({ length: 400 }, (_, number) => ({ topic: name, value: 'v' + number, partition: number % 4 }))
  }))
  const first = await join(name, name, settings)
  let second = null
  const has = (member, count) => (member.consumer.assignments ?? []).flatMap(one => one.partitions).length === count
  try {
    await until('400 records', () => first.found.length === 400)
    for (let partition = 0; partition < 4; partition++) {
      const last = first.found.filter(one => one.partition === partition).at(-1)
      await last.commit()
    }
    second = await join(name, name, settings)
    await until('two partitions each', () => has(first, 2) && has(second, 2))
    await first.close()
    await until('four partitions', () => has(second, 4))
    await using(producer(), one => one.send({
      messages: Array.from({ length: 100 }, (_, number) => ({ topic: name, value: 'v' + number, partition: number % 4 }))
    }))
    await until('100 more', () => second.found.length >= 100)
    check(second.found.length, 100)
  } finally {
    await first.close()
    await second?.close()
  }
}

const scenarios = {
  'produce and read': async () => {
    // Node has zstd since 22.15.
    for (const compression of ['none', 'gzip', 'snappy', 'lz4', ...('zstdCompress' in zlib ? ['zstd'] : [])]) {
      for (const [name, acks] of [['0', ProduceAcks.NO_RESPONSE], ['1', ProduceAcks.LEADER], ['all', ProduceAcks.ALL]]) {
        const topic = `m-${compression}-${name}`
        await makeTopic(topic, 1)
        await send(topic, 0, 200, { compression, acks })
        const found = await read(topic, 200)
        check(found.map(one => one.value), values(0, 200))
        check([found[7].key, found[7].headers.get('h')], ['k2', 'x'])
      }
    }
  },
  idempotent: async () => {
    await using(producer({ idempotent: true }), async one => {
      for (let number = 0; number < 500; number++) await one.send({ messages: [message('m-idempotent', number)] })
    })
    check((await read('m-idempotent', 500)).map(one => one.value), values(0, 500))
  },
  transaction: async () => {
    await makeTopic('m-transaction', 1)
    await using(producer({ idempotent: true, transactionalId: 'platformatic' }), async one => {
      for (const [first, committed] of [[0, true], [50, false], [50, true]]) {
        const open = await one.beginTransaction()
        for (let number = first; number < first + 50; number++) {
          await open.send({ messages: [message('m-transaction', number)] })
        }
        if (committed) await open.commit()
        else await open.abort()
      }
    })
    const found = await read('m-transaction', 100, { isolationLevel: 1 })
    check(found.map(one => one.value), values(0, 100))
  },
  'seek by time': async () => {
    const start = Date.now() - 100000
    await using(producer(), one => one.send({
      messages: values(0, 100).map((value, number) => ({ topic: 'm-time', value, partition: 0, timestamp: BigInt(start + number * 10) }))
    }))
    const consumer = new Consumer({ ...base, groupId: 'm-time' })
    const offset = await using(consumer, async one => {
      const found = await one.listOffsets({ topics: ['m-time'], timestamp: BigInt(start + 501) })
      return found.get('m-time')[0]
    })
    check(String(offset), '51')
    const options = { mode: 'manual', offsets: [{ topic: 'm-time', partition: 0, offset }] }
    check((await read('m-time', 49, {}, options))[0].value, 'v51')
  },
  admin: async () => {
    await using(new Admin(base), async admin => {
      await admin.createTopics({ topics: ['m-admin'], partitions: 3, replicas: 1, configs: [{ name: 'retention.ms', value: '1000000' }] })
      check((await admin.listTopics()).includes('m-admin'), true)
      await admin.createPartitions({ topics: [{ name: 'm-admin', count: 4, assignments: [] }] })
      const described = await admin.describeConfigs({
        resources: [{ resourceType: 2, resourceName: 'm-admin', configurationKeys: ['retention.ms'] }]
      })
      check(described[0].configs[0].value, '1000000')
      await send('m-admin', 0, 20)
      await admin.listGroups()
      await admin.deleteRecords({ topics: [{ name: 'm-admin', partitions: [{ partition: 0, offset: 5n }] }] })
      await admin.deleteTopics({ topics: ['m-admin'] })
    })
  },
  group: () => group('m-group', {}),
  'new group protocol': () => group('m-consumer', { groupProtocol: 'consumer' }),
  restart: async () => {
    await makeTopic('m-restart', 1)
    const reader = await join('m-restart', 'm-restart')
    try {
      await using(producer({ idempotent: true, retries: 50, retryDelay: 200 }), async one => {
        for (let number = 0; number < 300; number++) {
          if (number === 150) await restart()
          await one.send({ messages: [message('m-restart', number)] })
        }
      })
      await until('300 records in the group', () => reader.found.length >= 300)
      check((await read('m-restart', 300)).map(one => one.value), values(0, 300))
    } finally {
      await reader.close()
    }
  }
}

process.on('uncaughtException', error => console.error('uncaught', error))
process.on('unhandledRejection', error => console.error('unhandled', error))
for (const [name, work] of Object.entries(scenarios)) {
  try {
    await Promise.race([work(), wait(150000).then(() => { throw new Error('not within 150 s') })])
    console.log('ok ' + name)
  } catch (error) {
    console.error(error, error.errors)
    console.log(`failed ${name}: ${error.message} ${error.errors?.map(one => one.message).join(', ') ?? ''}`)
  }
}
process.exit(0)
