// kafkajs.
'use strict'
const { Kafka, CompressionTypes, logLevel } = require('kafkajs')
const readline = require('readline')

const kafka = new Kafka({ clientId: 'kafkajs', brokers: [process.argv[2]], logLevel: logLevel.NOTHING })
const lines = readline.createInterface({ input: process.stdin })
const wait = ms => new Promise(resolve => setTimeout(resolve, ms))

function check(found, wanted) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) throw new Error(`found ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`)
}

async function restart() {
  const answer = new Promise(resolve => lines.once('line', resolve))
  console.log('restart')
  await answer
}

async function send(topic, count, settings = {}, options = {}) {
  const producer = kafka.producer(settings)
  await producer.connect()
  const messages = Array.from({ length: count }, (_, number) => ({ key: 'k' + number % 5, value: 'v' + number, headers: { h: 'x' } }))
  await producer.send({ topic, messages, ...options })
  await producer.disconnect()
}

async function read(topic, count, groupId) {
  const consumer = kafka.consumer({ groupId })
  await consumer.connect()
  await consumer.subscribe({ topic, fromBeginning: true })
  const found = []
  await consumer.run({ eachMessage: async ({ message }) => { found.push(message.value.toString()) } })
  for (const end = Date.now() + 60000; found.length < count && Date.now() < end;) await wait(50)
  await consumer.disconnect()
  return found
}

const values = count => Array.from({ length: count }, (_, number) => 'v' + number)

async function until(what, done) {
  for (const end = Date.now() + 90000; !done();) {
    if (Date.now() > end) throw new Error(`no ${what} in time`)
    await wait(50)
  }
}

async function member(found) {
  const consumer = kafka.consumer({ groupId: 'j-group', sessionTimeout: 10000, heartbeatInterval: 500 })
  let partitions = 0
  consumer.on(consumer.events.GROUP_JOIN, event => { partitions = (event.payload.memberAssignment['j-group'] ?? []).length })
  await consumer.connect()
  await consumer.subscribe({ topic: 'j-group', fromBeginning: true })
  await consumer.run({ eachMessage: async ({ message }) => { found.push(message.value.toString()) } })
  return { consumer, has: () => partitions }
}

const scenarios = {
  'produce and read': async () => {
    for (const [name, compression] of [['none', CompressionTypes.None], ['gzip', CompressionTypes.GZIP]]) {
      for (const acks of [0, 1, -1]) {
        const topic = `j-${name}-${acks}`
        await send(topic, 200, {}, { compression, acks })
        check((await read(topic, 200, topic)), values(200))
      }
    }
  },
  idempotent: async () => {
    await send('j-idempotent', 500, { idempotent: true, maxInFlightRequests: 1 })
    check(await read('j-idempotent', 500, 'j-idempotent'), values(500))
  },
  transaction: async () => {
    const producer = kafka.producer({ transactionalId: 'kafkajs', idempotent: true, maxInFlightRequests: 1 })
    await producer.connect()
    for (const [first, committed] of [[0, true], [50, false], [50, true]]) {
      const open = await producer.transaction()
      const messages = Array.from({ length: 50 }, (_, number) => ({ value: 'v' + (first + number) }))
      await open.send({ topic: 'j-transaction', messages })
      if (!committed) { await open.abort(); continue }
      const partitions = [{ partition: 0, offset: String(first + 7) }]
      await open.sendOffsets({ consumerGroupId: 'j-transform', topics: [{ topic: 'j-transaction', partitions }] })
      await open.commit()
    }
    await producer.disconnect()
    check(await read('j-transaction', 100, 'j-transaction'), values(100))
    const admin = kafka.admin()
    await admin.connect()
    const offsets = await admin.fetchOffsets({ groupId: 'j-transform', topics: ['j-transaction'] })
    check(offsets[0].partitions[0].offset, '57')
    await admin.disconnect()
  },
  'seek by time': async () => {
    const base = Date.now() - 100000
    const producer = kafka.producer()
    await producer.connect()
    const messages = Array.from({ length: 100 }, (_, number) => ({ value: 'x', timestamp: String(base + number * 10) }))
    await producer.send({ topic: 'j-time', messages })
    await producer.disconnect()
    const admin = kafka.admin()
    await admin.connect()
    check((await admin.fetchTopicOffsetsByTimestamp('j-time', base + 501))[0].offset, '51')
    await admin.disconnect()
  },
  admin: async () => {
    const admin = kafka.admin()
    await admin.connect()
    check(await admin.createTopics({ topics: [{ topic: 'j-admin', numPartitions: 3 }] }), true)
    const described = await admin.describeConfigs({ resources: [{ type: 2, name: 'j-admin', configNames: ['retention.ms'] }] })
    check(described.resources[0].configEntries[0].configName, 'retention.ms')
    await admin.createPartitions({ topicPartitions: [{ topic: 'j-admin', count: 5 }] })
    check((await admin.fetchTopicMetadata({ topics: ['j-admin'] })).topics[0].partitions.length, 5)
    await admin.deleteTopics({ topics: ['j-admin'] })
    await admin.disconnect()
  },
  group: async () => {
    const admin = kafka.admin()
    await admin.connect()
    await admin.createTopics({ topics: [{ topic: 'j-group', numPartitions: 4 }] })
    await send('j-group', 300)
    const found = []
    const first = await member(found)
    await until('300 records', () => found.length === 300)
    const second = await member(found)
    await until('two partitions each', () => first.has() === 2 && second.has() === 2)
    await first.consumer.disconnect()
    await until('four partitions', () => second.has() === 4)
    await send('j-group', 100)
    await until('400 records', () => found.length === 400)
    await second.consumer.disconnect()
    const offsets = await admin.fetchOffsets({ groupId: 'j-group', topics: ['j-group'] })
    check(offsets[0].partitions.reduce((sum, one) => sum + Math.max(Number(one.offset), 0), 0), 400)
    await admin.disconnect()
  },
  restart: async () => {
    const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1, retry: { retries: 20 } })
    await producer.connect()
    for (let number = 0; number < 300; number++) {
      if (number === 150) await restart()
      await producer.send({ topic: 'j-restart', messages: [{ value: 'v' + number }] })
    }
    await producer.disconnect()
    check(await read('j-restart', 300, 'j-restart'), values(300))
  },
}

;(async () => {
  for (const [name, work] of Object.entries(scenarios)) {
    try {
      await work()
      console.log('ok ' + name)
    } catch (error) {
      console.error(error)
      console.log(`failed ${name}: ${error.message}`)
    }
  }
  console.log('cannot new group protocol: it has none')
  process.exit(0)
})()
