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
    await send('j-group', 300)
    check((await read('j-group', 300, 'j-group')).length, 300)
  },
  restart: async () => {
    await send('j-restart', 200)
    await restart()
    await send('j-restart', 200)
    check((await read('j-restart', 400, 'j-restart')).length, 400)
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
  process.exit(0)
})()
